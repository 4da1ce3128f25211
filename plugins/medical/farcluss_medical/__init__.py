"""Medical volumes for farcluss. Everything is reached by entry points."""
