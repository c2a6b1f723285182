//! Durability: what a crash, a failing disk, a kill, a damaged folder or a second process leaves is
//! refused, reported or resumed to the same bytes. `make durability` tries all of it and
//! prints a table; `cargo test --test it durability` tries a part, drawn by a fixed seed.
//!
//! A failing case is printed with its name; `NST_CASE=NAME cargo test --test it durability::…`
//! tries it alone. `NST_BINARY` is another program under test, `NST_DURABILITY_DIR` the folder in
//! which it works (by default in memory, where a sync costs nothing).

#![allow(clippy::print_stderr, reason = "a test says what it tried")]

mod bench;
mod compare;
mod concurrency;
mod faults;
mod forge;
mod forge_manifest;
mod hostile;
mod kills;
mod mutations;
mod replay;
mod resources;
mod runs;
mod shim;
mod states;
