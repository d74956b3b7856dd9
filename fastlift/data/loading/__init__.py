"""From the index and the stream of crop boxes to batches: read, decode, crop, resize, collate."""
