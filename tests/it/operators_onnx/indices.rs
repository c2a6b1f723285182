//! Indices that come with the data, and those that are refused.

use super::graph::{int, text};
use super::net::Net;
use super::students::trains;
use candle_core::DType;
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::AttributeProto;
use nst_cache::student::Student;

#[test]
fn indices_may_be_data() {
    let mut net = Net::new(18);
    let indices = Values::I64(vec![1, 0, -1, 2]);
    net.input("i", Array::new(vec![2, 2], indices).unwrap());
    net.weight("table", &[3, 4]);
    net.image("x", &[2, 2]);
    net.weight("w", &[2, 2]);
    net.node("MatMul", &["x", "w"], &["more"], vec![]);
    let axis = || vec![int("axis", 1)];
    net.node("GatherElements", &["table", "i"], &["picked"], axis());
    net.node("GatherND", &["table", "i"], &["rows"], vec![]);
    net.node("ScatterElements", &["table", "i", "more"], &["written"], axis());
    let add = vec![text("reduction", "add")];
    net.node("ScatterND", &["table", "i", "rows"], &["added"], add);
    net.int64("depth", &[], &[3]);
    net.float("values", &[2], &[0.0, 1.0]);
    net.node("OneHot", &["i", "depth", "values"], &["hot"], vec![]);
    net.node("MatMul", &["hot", "table"], &["embedded"], vec![]);
    for output in ["picked", "rows", "written", "added", "embedded"] {
        net.output(output);
    }
    net.node("ReduceSum", &["embedded"], &["total"], vec![]);
    net.output("total");
    trains(&net, &["table", "w"]);
}

/// A mask made of an extremum's place: integers that are computed from the data.
#[test]
fn the_place_of_an_extremum_makes_a_mask() {
    let mut net = Net::new(17);
    net.image("x", &[3, 4]);
    net.weight("w", &[4, 5]);
    net.node("MatMul", &["x", "w"], &["a"], vec![]);
    net.node("ArgMax", &["a"], &["at"], vec![int("axis", 1), int("keepdims", 0)]);
    net.int64("depth", &[], &[5]);
    net.float("values", &[2], &[0.5, 2.0]);
    net.node("OneHot", &["at", "depth", "values"], &["mask"], vec![]);
    net.node("Mul", &["a", "mask"], &["y"], vec![]);
    net.output("y");
    trains(&net, &["w"]);
}

#[test]
fn indices_that_do_not_fit_are_refused() {
    let refused = |operator: &str,
                   indices: (&[usize], &[i64]),
                   updates: &[usize],
                   attributes: Vec<AttributeProto>| {
        let mut net = Net::new(18);
        net.weight("p0", &[3, 4]);
        net.int64("i", indices.0, indices.1);
        net.weight("p1", updates);
        let inputs: &[&str] =
            if operator.starts_with("Scatter") { &["p0", "i", "p1"] } else { &["p0", "i"] };
        net.node(operator, inputs, &["y"], attributes);
        net.output("y");
        assert!(
            net.student(DType::F32).forward(&[], nst_cache::student::Mode::Eval, &[], 0).is_err()
        );
        let listed = Student::check(&net.model()).unwrap();
        assert_eq!(listed.blockers.len(), 1, "{operator}: {:?}", listed.blockers);
        listed.blockers[0].2.clone()
    };
    for (operator, indices, updates, attributes, reason) in [
        ("ScatterElements", (&[1, 1][..], &[3][..]), &[1, 1][..], vec![], "expected -3 to 2"),
        ("ScatterElements", (&[1, 1], &[0]), &[1, 2], vec![], "updates: expected shape [1, 1]"),
        ("ScatterElements", (&[1, 5], &[0; 5]), &[1, 5], vec![], "does not fit data"),
        ("ScatterND", (&[1, 3], &[0; 3]), &[1], vec![], "does not fit data"),
        (
            "ScatterND",
            (&[1, 1], &[0]),
            &[1, 4],
            vec![text("reduction", "mul")],
            "expected none, add, max or min, found mul",
        ),
        ("GatherND", (&[1, 1], &[0]), &[1], vec![int("batch_dims", 2)], "does not fit data"),
        ("GatherND", (&[3, 1], &[0; 3]), &[1], vec![int("batch_dims", -1)], "does not fit data"),
        ("GatherElements", (&[2], &[0, 1]), &[1], vec![], "does not fit data"),
    ] {
        let found = refused(operator, indices, updates, attributes);
        assert!(found.contains(reason), "{operator}: {found}");
    }
}
