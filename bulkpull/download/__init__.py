"""From a link to one verified file: ranges, segments, encodings, expiry, retries."""
