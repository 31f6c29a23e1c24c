"""One trace of an unmodified module, and what it is made of: when each value is known, and which values are sites."""
