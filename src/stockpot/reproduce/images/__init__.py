"""Claims on images, and the test beds that they share."""
