"""Average precision and its relatives, and who was matched with whom."""
