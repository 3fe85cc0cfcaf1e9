"""Two recordings, or a list of trials -> how much more likely one speaker is than two; and with what."""
