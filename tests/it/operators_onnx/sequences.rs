//! Students with sequences and computed places, as exporters write them, and what is refused of
//! such operators.

use super::graph::{FLOAT, INT32, int, ints, text, texts};
use super::net::{Net, compare};
use super::students::trains;
use candle_core::DType;
use nst_cache::onnx::proto::AttributeProto;
use nst_cache::student::{Mode, Student};

/// The rows of PyTorch's weights in ONNX's order of gates, with an axis for the direction.
fn reordered(net: &mut Net, name: &str, order: &[usize], width: i64) -> String {
    let parts: Vec<String> = order
        .iter()
        .enumerate()
        .map(|(to, &from)| {
            let [start, end] = [from as i64 * width, (from as i64 + 1) * width];
            let names = [format!("{name}_start{to}"), format!("{name}_end{to}")];
            net.int64(&names[0], &[1], &[start]);
            net.int64(&names[1], &[1], &[end]);
            let inputs = [name, names[0].as_str(), names[1].as_str(), "zero"];
            net.node("Slice", &inputs, &[&format!("{name}_part{to}")], vec![])
        })
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    net.node("Concat", &parts, &[&format!("{name}_all")], vec![int("axis", 0)])
}

/// Weights in parts, the bias in two, and an initial state that is repeated over the batch: given
/// as a weight, or a zero.
fn exported(operator: &str, order: &[usize], state: Option<&[usize]>) -> Net {
    let (width, gates) = (2, order.len());
    let mut net = Net::new(17);
    net.image("x", &[4, 3, 5]);
    net.int64("zero", &[1], &[0]);
    let mut inputs = vec!["x".to_owned()];
    for (name, columns) in [("w", 5), ("r", width)] {
        net.weight(name, &[gates * width, columns]);
        let all = reordered(&mut net, name, order, width as i64);
        inputs.push(net.node("Unsqueeze", &[&all, "zero"], &[&format!("{name}_one")], vec![]));
    }
    let mut bias = Vec::new();
    for name in ["bw", "br"] {
        net.weight(name, &[gates * width]);
        bias.push(reordered(&mut net, name, order, width as i64));
    }
    net.node("Concat", &[&bias[0], &bias[1]], &["b_all"], vec![int("axis", 0)]);
    inputs.push(net.node("Unsqueeze", &["b_all", "zero"], &["b_one"], vec![]));
    match state {
        Some(shape) => net.weight("h", shape),
        None => net.float("h", &[], &[0.0]),
    };
    net.int64("one", &[1], &[1]);
    net.int64("width", &[1], &[width as i64]);
    net.node("Shape", &["x"], &["sizes"], vec![]);
    net.node("Gather", &["sizes", "one"], &["batch"], vec![]);
    net.node("Concat", &["one", "batch", "width"], &["state"], vec![int("axis", 0)]);
    inputs.extend([String::new(), net.node("Expand", &["h", "state"], &["initial"], vec![])]);
    if operator == "LSTM" {
        inputs.push("initial".into());
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let attributes = vec![int("hidden_size", width as i64), int("linear_before_reset", 1)];
    let attributes = attributes.into_iter().take(if operator == "GRU" { 2 } else { 1 }).collect();
    net.node(operator, &inputs, &["all", "last"], attributes);
    net.output("all");
    net.output("last");
    net
}

#[test]
fn weights_of_recurrences_are_found_behind_what_exporters_do_to_them() {
    for (operator, order) in [("LSTM", &[0, 3, 1, 2][..]), ("GRU", &[1, 0, 2])] {
        trains(&exported(operator, order, None), &["br", "bw", "r", "w"]);
        trains(&exported(operator, order, Some(&[1, 1, 2])), &["br", "bw", "h", "r", "w"]);
    }
}

/// A batch that is fixed has its zeros in full.
#[test]
fn initial_zeros_of_a_recurrence_do_not_train() {
    let mut net = Net::new(17);
    net.image("x", &[4, 3, 5]);
    net.weight("w", &[1, 8, 5]);
    net.weight("r", &[1, 8, 2]);
    net.weight("c", &[1, 3, 2]);
    net.float("h", &[1, 3, 2], &[0.0; 6]);
    net.int64("lengths", &[3], &[4; 3]);
    net.node("Cast", &["lengths"], &["all"], vec![int("to", INT32.into())]);
    let inputs = ["x", "w", "r", "", "all", "h", "c"];
    net.node("LSTM", &inputs, &["", "last"], vec![int("hidden_size", 2)]);
    net.output("last");
    trains(&net, &["c", "r", "w"]);
}

#[test]
fn a_recurrence_with_the_batch_first_is_the_same_turned() {
    for (operator, gates) in [("LSTM", 4), ("GRU", 3)] {
        let weights = |layout: i64| {
            let mut net = Net::new(14);
            net.image("x", &[4, 3, 5]);
            net.weight("w", &[2, gates * 2, 5]);
            net.weight("r", &[2, gates * 2, 2]);
            net.weight("h", &[2, 3, 2]);
            let turn = |net: &mut Net, from: &str, to: &str, order: &[i64]| {
                net.node("Transpose", &[from], &[to], vec![ints("perm", order)])
            };
            let (mut x, mut h) = ("x".to_owned(), "h".to_owned());
            if layout == 1 {
                x = turn(&mut net, "x", "x1", &[1, 0, 2]);
                h = turn(&mut net, "h", "h1", &[1, 0, 2]);
            }
            net.node(
                operator,
                &[&x, "w", "r", "", "", &h],
                &["a", "b"],
                vec![int("layout", layout), text("direction", "bidirectional")],
            );
            let (mut a, mut b) = ("a".to_owned(), "b".to_owned());
            if layout == 1 {
                a = turn(&mut net, "a", "a1", &[1, 2, 0, 3]);
                b = turn(&mut net, "b", "b1", &[1, 0, 2]);
            }
            net.output(&a);
            net.output(&b);
            net.evaluate(&net.student(DType::F64), DType::F64, Mode::Eval).unwrap()
        };
        compare(&weights(1), &weights(0), 1e-12).unwrap();
    }
}

/// Places are integers for whoever reads them: to gather by, to compare, as numbers.
#[test]
fn the_places_of_the_largest_are_integers() {
    let mut net = Net::new(17);
    net.image("x", &[2, 4]);
    net.weight("w", &[4, 6]);
    net.weight("table", &[6, 3]);
    net.int64("k", &[1], &[2]);
    net.int64("two", &[], &[2]);
    net.node("MatMul", &["x", "w"], &["a"], vec![]);
    net.node("TopK", &["a", "k"], &["values", "places"], vec![]);
    net.node("Gather", &["table", "places"], &["rows"], vec![]);
    net.node("Unsqueeze", &["values", "last"], &["factors"], vec![]);
    net.int64("last", &[1], &[-1]);
    net.node("Mul", &["rows", "factors"], &["y"], vec![]);
    // a division of integers
    net.node("Div", &["places", "two"], &["halves"], vec![]);
    net.node("Equal", &["halves", "two"], &["same"], vec![]);
    net.node("Cast", &["same"], &["is_same"], vec![int("to", FLOAT.into())]);
    net.node("Cast", &["halves"], &["numbers"], vec![int("to", FLOAT.into())]);
    for output in ["y", "is_same", "numbers"] {
        net.output(output);
    }
    trains(&net, &["table", "w"]);
}

/// What depends on no data is computed beforehand, the first of equal numbers being the largest.
#[test]
fn sequences_and_places_of_constants_are_folded() {
    let mut net = Net::new(17);
    net.weight("p", &[1]);
    net.float("x", &[2, 4], &[1.0, 3.0, 3.0, 1.0, 2.0, 2.0, 2.0, 5.0]);
    net.int64("k", &[1], &[3]);
    net.node("TopK", &["x", "k"], &["values", "places"], vec![]);
    net.node("Cast", &["places"], &["numbers"], vec![int("to", FLOAT.into())]);
    net.float("sequence", &[2, 3, 1], &[0.5, -1.0, 2.0, 0.25, 1.5, -0.5]);
    net.float("w", &[1, 4, 1], &[0.5, -0.5, 1.0, 0.75]);
    net.node("LSTM", &["sequence", "w", "w"], &["all", "state"], vec![int("hidden_size", 1)]);
    net.float("map", &[1, 1, 2, 3], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    net.float("grid", &[1, 1, 3, 2], &[0.1, 0.2, -0.9, 0.7, 0.4, -0.3]);
    net.node("GridSample", &["map", "grid"], &["sampled"], vec![]);
    for (i, known) in ["values", "numbers", "all", "sampled"].iter().enumerate() {
        let output = net.node("Mul", &["p", known], &[&format!("y{i}")], vec![]);
        net.output(&output);
    }
    assert_eq!(net.student(DType::F64).parameters().len(), 1);
    let found = net.evaluate(&net.student(DType::F32), DType::F32, Mode::Eval).unwrap();
    compare(&found, &net.runtime().unwrap(), 1e-5).unwrap();
}

/// The reason for which a student of one operator on weights of these shapes is refused.
fn refusal(operator: &str, shapes: &[&[usize]], attributes: Vec<AttributeProto>) -> String {
    let mut net = Net::new(20);
    let mut names = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        names.push(match shape {
            [] => String::new(),
            shape => net.weight(&format!("p{i}"), shape),
        });
    }
    if operator == "TopK" {
        names.push(net.int64("k", &[1], &[5]));
    }
    if operator == "LSTM" && names.len() == 4 {
        names.push(net.int64("lengths", &[2], &[3, 2]));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    net.node(operator, &names, &["y"], attributes);
    net.output("y");
    let listed = Student::check(&net.model()).unwrap();
    assert_eq!(listed.blockers.len(), 1, "{:?}", listed.blockers);
    listed.blockers[0].2.clone()
}

#[test]
fn what_sequences_and_places_cannot_be_is_said() {
    let lstm: &[&[usize]] = &[&[3, 2, 4], &[1, 8, 4], &[1, 8, 2]];
    let lengths: &[&[usize]] = &[&[3, 2, 4], &[1, 8, 4], &[1, 8, 2], &[]];
    let gru: &[&[usize]] = &[&[3, 2, 4], &[1, 6, 4], &[1, 6, 2]];
    let grid: &[&[usize]] = &[&[1, 2, 3, 3], &[1, 2, 2, 2]];
    let volume: &[&[usize]] = &[&[1, 2, 3, 3, 3], &[1, 2, 2, 2, 3]];
    let table: Vec<(&str, &[&[usize]], Vec<AttributeProto>, &str)> = vec![
        ("LSTM", lstm, vec![int("input_forget", 1)], "input_forget: expected 0"),
        ("LSTM", lstm, vec![int("hidden_size", 3)], "hidden_size: expected 2"),
        ("LSTM", lengths, vec![], "sequence_lens: expected all 3 steps"),
        ("LSTM", &[&[3, 2, 4], &[1, 8, 5], &[1, 8, 2]], vec![], "expected shape [1, 8, 4]"),
        ("LSTM", lstm, vec![text("direction", "sideways")], "found sideways"),
        ("GRU", gru, vec![texts("activations", &["Tanh", "Affine"])], "found Affine"),
        ("GRU", gru, vec![texts("activations", &["Tanh"])], "expected 2 for each of 1"),
        ("GRU", gru, vec![int("clip", 1)], "attribute clip"),
        ("TopK", &[&[2, 4]], vec![], "expected 0 to 4"),
        ("GridSample", volume, vec![], "volumes are not supported"),
        ("GridSample", &[&[2, 2, 3, 3], &[1, 2, 2, 2]], vec![], "grid: expected [2, H, W, 2]"),
        ("GridSample", grid, vec![text("mode", "spline")], "mode spline"),
        ("GridSample", grid, vec![text("padding_mode", "wrap")], "padding_mode wrap"),
    ];
    for (operator, shapes, attributes, expected) in table {
        let reason = refusal(operator, shapes, attributes);
        assert!(reason.contains(expected), "{operator}: {reason} for {expected}");
    }
}
