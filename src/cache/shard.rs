//! The bytes of one shard (`sharding_indexed`, index at the end): encoded chunk by chunk, decoded with every check.
