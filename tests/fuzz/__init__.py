"""Bad input by the thousand, and what must hold of all of it."""
