"""Making, finding and counting pose errors."""
