"""What a data set needs, what is wrong with it, and what it looks like: ``fastlift data prepare|check|stats``."""
