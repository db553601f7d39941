"""Average precision and related measures, and the matching of detections with labelled people."""
