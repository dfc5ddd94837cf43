"""From what a person has to shards of ids, and from shards to packed rows."""
