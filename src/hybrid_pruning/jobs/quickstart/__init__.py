"""The quickstart: a real anti-spoofing job on real speech, from nothing but this package."""
