//! What the program prints, whole: every help text, every error with its hint, every table.
//! `INSTA_UPDATE=always cargo test --test it snapshots` writes the files anew.

mod errors;
mod help;
mod tables;
