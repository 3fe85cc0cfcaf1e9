"""Models behind HTTP: a page, REST and a stream, of which one engine computes the requests of all clients."""
