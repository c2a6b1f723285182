#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nst_cache_fuzz::data::parquet(bytes));
