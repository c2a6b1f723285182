//! Random operators: drawn in training, their mean in evaluation and in what is exported, refused
//! where that has none.

use super::graph::{FLOAT, float, int, ints};
use super::net::{Net, Objective, array_of, compare, values};
use super::students::import;
use candle_core::DType;
use nst_cache::onnx::operator::Class;
use nst_cache::student::{ImportOptions, Mode, Student};

/// How a mask is made for the tensor `a` of shape `[4, 5]`, and met with it as `b`.
type Mask = fn(&mut Net);

/// `[batch, 1]`, as exporters compute it.
fn batch_shape(net: &mut Net) {
    net.int64("first", &[1], &[0]);
    net.int64("one", &[1], &[1]);
    net.node("Shape", &["a"], &["sizes"], vec![]);
    net.node("Gather", &["sizes", "first"], &["batch"], vec![]);
    net.node("Concat", &["batch", "one"], &["shape"], vec![int("axis", 0)]);
}

fn below(net: &mut Net) {
    batch_shape(net);
    net.float("keep", &[], &[0.8]);
    net.node("ConstantOfShape", &["shape"], &["zeros"], vec![]);
    net.node("RandomUniformLike", &["zeros"], &["draw"], vec![]);
    net.node("Less", &["draw", "keep"], &["kept"], vec![]);
    net.node("Cast", &["kept"], &["mask"], vec![int("to", FLOAT.into())]);
    net.node("Div", &["mask", "keep"], &["scaled"], vec![]);
    net.node("Mul", &["a", "scaled"], &["b"], vec![]);
}

fn floored(net: &mut Net) {
    batch_shape(net);
    net.float("keep", &[], &[0.75]);
    net.float("zero", &[], &[0.0]);
    net.node("Expand", &["zero", "shape"], &["zeros"], vec![]);
    net.node("RandomUniformLike", &["zeros"], &["draw"], vec![int("dtype", FLOAT.into())]);
    net.node("Add", &["keep", "draw"], &["moved"], vec![]);
    net.node("Floor", &["moved"], &["mask"], vec![]);
    net.node("Div", &["a", "keep"], &["larger"], vec![]);
    net.node("Mul", &["mask", "larger"], &["b"], vec![]);
}

fn bernoulli(net: &mut Net) {
    batch_shape(net);
    net.float("keep", &[], &[0.6]);
    net.node("Expand", &["keep", "shape"], &["chances"], vec![]);
    net.node("Bernoulli", &["chances"], &["mask"], vec![]);
    net.node("Div", &["mask", "keep"], &["scaled"], vec![]);
    net.node("Mul", &["a", "scaled"], &["b"], vec![]);
}

/// One draw for the whole batch.
fn above(net: &mut Net) {
    net.float("drop", &[], &[0.3]);
    net.float("keep", &[], &[0.7]);
    net.node("RandomUniform", &[], &["draw"], vec![ints("shape", &[1, 1])]);
    net.node("Greater", &["draw", "drop"], &["kept"], vec![]);
    net.node("Cast", &["kept"], &["mask"], vec![int("to", FLOAT.into())]);
    net.node("Div", &["mask", "keep"], &["scaled"], vec![]);
    net.node("Mul", &["a", "scaled"], &["b"], vec![]);
}

fn slope(net: &mut Net) {
    let bounds = vec![float("low", 0.125), float("high", 0.375)];
    net.node("RandomUniformLike", &["a"], &["draw"], bounds);
    net.node("PRelu", &["a", "draw"], &["b"], vec![]);
}

fn noise(net: &mut Net) {
    net.node("RandomNormalLike", &["a"], &["draw"], vec![float("scale", 0.5)]);
    net.node("Add", &["draw", "a"], &["b"], vec![]);
}

/// As `torch.export` writes a drop path that is not optimized.
fn like(net: &mut Net) {
    net.node("RandomUniformLike", &["a"], &["draw"], vec![]);
    net.float("keep", &[], &[0.8]);
    net.node("CastLike", &["keep", "draw"], &["bound"], vec![]);
    net.node("Less", &["draw", "bound"], &["kept"], vec![]);
    net.node("CastLike", &["kept", "draw"], &["mask"], vec![]);
    net.node("Div", &["mask", "keep"], &["scaled"], vec![]);
    net.node("Mul", &["a", "scaled"], &["b"], vec![]);
}

/// What stands for the mask where nothing is drawn.
fn identity(net: &mut Net) {
    net.node("Identity", &["a"], &["b"], vec![]);
}

fn mean_slope(net: &mut Net) {
    net.node("LeakyRelu", &["a"], &["b"], vec![float("alpha", 0.25)]);
}

/// Each mask beside its form in inference.
const MASKS: [(Mask, Mask); 7] = [
    (below, identity),
    (floored, identity),
    (bernoulli, identity),
    (above, identity),
    (slope, mean_slope),
    (noise, identity),
    (like, identity),
];

/// A residual branch that is masked.
fn net(mask: Mask, batch: usize) -> Net {
    let mut net = Net::new(17);
    net.image("x", &[batch, 3]);
    net.weight("w", &[3, 5]);
    net.node("MatMul", &["x", "w"], &["a"], vec![]);
    mask(&mut net);
    net.node("Add", &["a", "b"], &["y"], vec![]);
    net.output("y");
    net
}

#[test]
fn a_mask_is_drawn_by_the_seed_and_has_its_gradient() {
    for (i, (mask, _)) in MASKS.into_iter().enumerate() {
        let net = net(mask, 64);
        let student = import(&net, DType::F64);
        let y = student.logits();
        let draw = |seed| {
            let pass = student.forward(&net.feed(DType::F64), Mode::Train, &[], seed).unwrap();
            values(pass.value(y).unwrap())
        };
        assert_eq!(draw(1), draw(1), "mask {i}");
        let draws: Vec<_> = (1..40).map(draw).collect();
        assert!(draws.iter().any(|other| *other != draws[0]), "mask {i}");
        let objective = Objective::of(&net, student);
        let gradient = objective.gradients().remove(0).unwrap();
        let mut point = objective.get(0);
        for at in 0..point.len() {
            let old = point[at];
            let mut moved = |by: f64| {
                point[at] = old + by;
                objective.set(0, &point);
                objective.loss()
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            moved(0.0);
            assert!((gradient[at] - expected).abs() < 1e-6 * (1.0 + expected.abs()), "mask {i}");
        }
    }
}

/// A branch is dropped for whole samples, and larger where it is kept.
#[test]
fn drop_path_keeps_or_drops_a_sample() {
    let net = net(below, 64);
    let student = import(&net, DType::F64);
    let keep = [student.tensor("a").unwrap(), student.tensor("b").unwrap()];
    let pass = student.forward(&net.feed(DType::F64), Mode::Train, &keep, 5).unwrap();
    let [a, b] = keep.map(|id| values(pass.value(id).unwrap()));
    let dropped = |b: &[f64]| b.iter().all(|&b| b == 0.0);
    let rows: Vec<_> = a.chunks(5).zip(b.chunks(5)).collect();
    let count = rows.iter().filter(|(_, b)| dropped(b)).count();
    assert!((4..24).contains(&count), "{count} of 64 at a rate of 0.2");
    for (a, b) in rows.into_iter().filter(|(_, b)| !dropped(b)) {
        a.iter().zip(b).for_each(|(a, b)| assert!((b - a / 0.8).abs() < 1e-6, "{b} of {a}"));
    }
}

#[test]
fn in_evaluation_and_export_the_mean_stands_for_a_mask() {
    for (i, (mask, inference)) in MASKS.into_iter().enumerate() {
        let (net, plain) = (net(mask, 4), net(inference, 4));
        let student = import(&net, DType::F32);
        let found = net.evaluate(&student, DType::F32, Mode::Eval).unwrap();
        let expected = plain.runtime().unwrap();
        compare(&found, &expected, 1e-6).unwrap_or_else(|e| panic!("mask {i}: {e}"));

        let exported = student.export(&[]).unwrap();
        let nodes = &exported.graph().node;
        assert!(nodes.iter().all(|n| n.operator().class != Class::Random), "mask {i}: {nodes:?}");
        // of a mask that keeps its mean nothing is left
        let left = nodes.iter().filter(|n| n.op_type() == "Constant").count();
        assert_eq!(left, usize::from(matches!(i, 1 | 4)), "mask {i}: {nodes:?}");
        for batch in [4, 7] {
            let mut other = super::draws::net(inference, batch);
            other.inputs[0].1 = array_of(&[batch, 3], &vec![0.3; batch * 3]);
            let found = other.runtime_of(&exported).unwrap();
            compare(&found, &other.runtime().unwrap(), 1e-6).unwrap();
        }
        // what was exported is a student again, and learns no mask
        let again = Student::import(&exported, &ImportOptions::default()).unwrap();
        assert_eq!(again.parameters().len(), 1, "mask {i}");
    }
}

#[test]
fn what_has_no_mean_in_inference_is_refused_by_its_node() {
    fn drawn(net: &mut Net) {
        net.node("RandomUniformLike", &["a"], &["draw"], vec![]);
    }
    let of_root: Mask = |net| {
        drawn(net);
        net.node("Sqrt", &["draw"], &["root"], vec![]);
        net.node("Mul", &["a", "root"], &["b"], vec![]);
    };
    let divisor: Mask = |net| {
        drawn(net);
        net.node("Div", &["a", "draw"], &["b"], vec![]);
    };
    let choice: Mask = |net| {
        drawn(net);
        net.float("keep", &[], &[0.8]);
        net.node("Less", &["draw", "keep"], &["kept"], vec![]);
        net.node("Where", &["kept", "a", "keep"], &["b"], vec![]);
    };
    // as AlphaDropout: the dropped values are moved
    let alpha: Mask = |net| {
        drawn(net);
        net.float("keep", &[], &[0.8]);
        net.node("Less", &["draw", "keep"], &["kept"], vec![]);
        net.node("Cast", &["kept"], &["mask"], vec![int("to", FLOAT.into())]);
        net.node("Mul", &["a", "mask"], &["masked"], vec![]);
        net.node("Add", &["masked", "mask"], &["b"], vec![]);
    };
    let larger: Mask = |net| {
        net.node("RandomUniform", &[], &["draw"], vec![ints("shape", &[2, 1, 1])]);
        net.node("Mul", &["a", "draw"], &["b"], vec![]);
    };
    let output: Mask = |net| {
        drawn(net);
        net.output("draw");
        net.node("Mul", &["a", "draw"], &["b"], vec![]);
    };
    let shape: Mask = |net| {
        drawn(net);
        net.node("Shape", &["draw"], &["sizes"], vec![]);
        net.node("Reshape", &["a", "sizes"], &["b"], vec![]);
    };
    for (mask, node, reason) in [
        (of_root, "Mul_3", "no mean"),
        (divisor, "Div_2", "a term, a factor or a slope"),
        (choice, "Where_3", "a term, a factor or a slope"),
        (alpha, "Add_5", "elsewhere"),
        (larger, "Mul_2", "expected a shape that repeats to that of the data"),
        (shape, "Shape_2", "the shape of random values"),
        (output, "RandomUniformLike_1", "an output of the graph is random"),
    ] {
        let listed = Student::check(&net(mask, 4).model()).unwrap();
        let [(name, _, why)] = &listed.blockers[..] else {
            panic!("{node}: {:?}", listed.blockers)
        };
        assert!(name == node && why.contains(reason), "{name}: {why}");
    }
}

/// A learned shift that happens to stand beside a mask is still found.
#[test]
fn weights_beside_a_mask_train() {
    let mut net = net(below, 4);
    net.outputs.clear();
    net.weight("shift", &[5]);
    net.node("Add", &["y", "shift"], &["z"], vec![]);
    net.output("z");
    let student = import(&net, DType::F64);
    let names: Vec<&str> = student.parameters().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["shift", "w"]);
}
