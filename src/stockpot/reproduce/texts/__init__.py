"""Claims on texts, and the test beds that they share."""
