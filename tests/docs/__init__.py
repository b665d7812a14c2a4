"""Programs that make and check the documentation; not part of the installed package."""
