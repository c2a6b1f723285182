//! Every operator of the student against ONNX Runtime forward and against finite differences
//! backward: one by one over its attributes, and composed at random. And students that are not a
//! chain from one image: several inputs, tokens, waves, tied weights.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    clippy::type_complexity,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "small numbers that the tests make themselves"
)]

// the fuzzer's seeds, which share `cases` and `net`, have the same names beside them
use crate::support::{Random, graph};

mod candle;
mod cases;
mod draws;
mod exact;
mod indices;
mod net;
mod random;
mod sequences;
mod single;
mod students;
