//! Gradients that are known exactly: at kinks, where `PyTorch`'s choice is the reference, and where
//! candle 0.11.1 is silently wrong.

use super::graph::{float, int, ints};
use super::net::{Net, values};
use candle_core::{DType, Tensor};
use nst_cache::onnx::proto::AttributeProto;
use nst_cache::student::Mode;

/// The gradients of Σ seed·output of one operator with respect to operands; a seed of `None` is
/// all ones.
fn gradients(
    operator: &str,
    operands: &[(&[usize], &[f64])],
    known: &[f64],
    attributes: Vec<AttributeProto>,
    seed: Option<&[f64]>,
) -> Vec<Vec<f64>> {
    let mut net = Net::new(if operator == "RMSNormalization" { 23 } else { 17 });
    let mut names: Vec<String> = operands
        .iter()
        .enumerate()
        .map(|(i, (shape, v))| net.float(&format!("p{i}"), shape, v))
        .collect();
    names.extend(
        known
            .iter()
            .enumerate()
            .map(|(i, &v)| net.float(&format!("k{i}"), &[], &[v]))
            .collect::<Vec<_>>(),
    );
    net.node(operator, &names.iter().map(String::as_str).collect::<Vec<_>>(), &["y"], attributes);
    net.output("y");
    of_net(&net, seed)
}

fn of_net(net: &Net, seed: Option<&[f64]>) -> Vec<Vec<f64>> {
    let student = net.student(DType::F64);
    let pass = student.forward(&[], Mode::Train, &[], 0).unwrap();
    let y = pass.value(student.logits()).unwrap().clone();
    let seed = match seed {
        Some(seed) => Tensor::from_vec(seed.to_vec(), y.dims(), &candle_core::Device::Cpu).unwrap(),
        None => y.ones_like().unwrap(),
    };
    let gradients = pass.backward(vec![(student.logits(), seed)]).unwrap();
    gradients.iter().map(|g| values(g.as_ref().unwrap())).collect()
}

fn slopes(operator: &str, x: &[f64], known: &[f64], attributes: Vec<AttributeProto>) -> Vec<f64> {
    gradients(operator, &[(&[x.len()], x)], known, attributes, None).remove(0)
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(same, "{what}: {found:?} for {expected:?}");
}

#[test]
fn kinks_have_pytorchs_gradient() {
    let alpha = |v| vec![float("alpha", v)];
    let table: Vec<(&str, Vec<f64>, Vec<f64>, Vec<AttributeProto>, Vec<f64>)> = vec![
        ("Relu", vec![0.0, -0.0], vec![], vec![], vec![0.0, 0.0]),
        ("Abs", vec![0.0], vec![], vec![], vec![0.0]),
        ("LeakyRelu", vec![0.0], vec![], alpha(0.25), vec![0.25]),
        ("Elu", vec![0.0], vec![], alpha(0.75), vec![0.75]),
        ("Celu", vec![0.0], vec![], alpha(0.75), vec![1.0]),
        ("Selu", vec![0.0], vec![], vec![], vec![1.758_099_3]),
        ("ThresholdedRelu", vec![0.5], vec![], alpha(0.5), vec![0.0]),
        ("Softsign", vec![0.0], vec![], vec![], vec![1.0]),
        ("HardSigmoid", vec![-2.0, 2.0], vec![], alpha(0.25), vec![0.0, 0.0]),
        ("HardSwish", vec![-3.0, 3.0], vec![], vec![], vec![0.0, 1.0]),
        // a clamp passes at its bounds, a ReLU6 does not
        ("Clip", vec![-1.0, 0.0, 1.0, 1.5], vec![-1.0, 1.0], vec![], vec![1.0, 1.0, 1.0, 0.0]),
        ("Clip", vec![0.0, 3.0, 6.0], vec![0.0, 6.0], vec![], vec![0.0, 1.0, 0.0]),
        ("Clip", vec![0.0, -0.5], vec![0.0], vec![], vec![1.0, 0.0]),
        ("Pow", vec![0.0], vec![0.0], vec![], vec![0.0]),
        ("Pow", vec![0.0, -1.5], vec![2.0], vec![], vec![0.0, -3.0]),
        ("Sign", vec![0.0], vec![], vec![], vec![0.0]),
        ("Round", vec![0.5], vec![], vec![], vec![0.0]),
        (
            "ReduceMax",
            vec![2.0, 1.0, 2.0, 2.0],
            vec![],
            vec![],
            vec![1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0],
        ),
        ("ReduceMin", vec![1.0, 1.0, 2.0], vec![], vec![], vec![0.5, 0.5, 0.0]),
        // of one zero the product of the others, of two nothing
        ("ReduceProd", vec![2.0, 0.0, 3.0], vec![], vec![], vec![0.0, 6.0, 0.0]),
        ("ReduceProd", vec![0.0, 2.0, 0.0], vec![], vec![], vec![0.0, 0.0, 0.0]),
        ("ReduceL1", vec![0.0, -2.0], vec![], vec![], vec![0.0, -1.0]),
        ("ReduceL2", vec![0.0, 0.0], vec![], vec![], vec![0.0, 0.0]),
    ];
    for (operator, x, known, attributes, expected) in table {
        assert_close(
            &slopes(operator, &x, &known, attributes),
            &expected,
            &format!("{operator} at {x:?}"),
        );
    }
}

#[test]
fn equal_operands_share_the_gradient() {
    let pair = gradients("Max", &[(&[2], &[1.0, 3.0]), (&[2], &[1.0, 2.0])], &[], vec![], None);
    assert_eq!(pair, [[0.5, 1.0], [0.5, 0.0]]);
    let pair = gradients("Min", &[(&[2], &[1.0, 3.0]), (&[1], &[1.0])], &[], vec![], None);
    assert_eq!(pair, [vec![0.5, 0.0], vec![1.5]]);
}

#[test]
fn prelu_at_zero_takes_the_slope_and_leaves_it_alone() {
    assert_eq!(
        gradients("PRelu", &[(&[2], &[0.0, -2.0]), (&[1], &[0.25])], &[], vec![], None),
        [vec![0.25, 0.25], vec![-2.0]]
    );
}

#[test]
fn a_pool_takes_the_first_of_equal_maxima() {
    let x: &[f64] = &[1.0, 2.0, 2.0, 2.0];
    let kernel = || vec![ints("kernel_shape", &[2, 2])];
    assert_eq!(
        gradients("MaxPool", &[(&[1, 1, 2, 2], x)], &[], kernel(), None),
        [[0.0, 1.0, 0.0, 0.0]]
    );
    assert_eq!(
        gradients("GlobalMaxPool", &[(&[1, 1, 2, 2], x)], &[], vec![], None),
        [[0.0, 1.0, 0.0, 0.0]]
    );
}

// ---- what candle 0.11.1 gets wrong

#[test]
fn max_pool2d_is_not_divided_by_its_window() {
    let x: Vec<f64> = (0..16).map(|i| f64::from(i * 7 % 16)).collect();
    let pool = |stride| vec![ints("kernel_shape", &[2, 2]), ints("strides", &[stride, stride])];
    let seed = [1.0, 10.0, 100.0, 1000.0];
    let found = gradients("MaxPool", &[(&[1, 1, 4, 4], &x)], &[], pool(2), Some(&seed)).remove(0);
    // 0 7 14 5 | 12 3 10 1 | 8 15 6 13 | 4 11 2 9
    let mut expected = vec![0.0; 16];
    (expected[4], expected[2], expected[9], expected[11]) = (1.0, 10.0, 100.0, 1000.0);
    assert_eq!(found, expected);
    // overlapping windows add up
    let found = gradients("MaxPool", &[(&[1, 1, 4, 4], &x)], &[], pool(1), None).remove(0);
    assert_eq!((found.iter().sum::<f64>(), found[2], found[9]), (9.0, 2.0, 4.0));
}

#[test]
fn avg_pool2d_where_the_size_is_not_divisible() {
    let pool = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let found =
        gradients("AveragePool", &[(&[1, 1, 5, 3], &[0.5; 15])], &[], pool, Some(&[1.0, 2.0]))
            .remove(0);
    let row = |d: f64| [d / 4.0, d / 4.0, 0.0];
    assert_eq!(found, [row(1.0), row(1.0), row(2.0), row(2.0), [0.0; 3]].concat());
}

#[test]
fn upsample_nearest2d_adds_to_a_gradient_that_is_there() {
    let mut net = Net::new(13);
    net.float("p", &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    net.float("scales", &[4], &[1.0, 1.0, 2.0, 3.0]);
    net.float("three", &[], &[3.0]);
    net.node("Resize", &["p", "", "scales"], &["large"], vec![]);
    net.node("ReduceSum", &["large"], &["a"], vec![int("keepdims", 0)]);
    net.node("Mul", &["p", "three"], &["m"], vec![]);
    net.node("ReduceSum", &["m"], &["b"], vec![int("keepdims", 0)]);
    net.node("Add", &["a", "b"], &["y"], vec![]);
    net.output("y");
    assert_eq!(of_net(&net, None), [[9.0; 4]]);
}

#[test]
fn softmax_last_dim_hands_its_gradient_on() {
    let x = [0.0, 2f64.ln(), 5f64.ln()];
    let found =
        gradients("Softmax", &[(&[1, 3], &x)], &[], vec![int("axis", -1)], Some(&[1.0, 0.0, 0.0]))
            .remove(0);
    assert_close(&found, &[7.0 / 64.0, -2.0 / 64.0, -5.0 / 64.0], "softmax");
}

#[test]
fn layer_norm_hands_its_gradient_on() {
    // deviations −1, 0, 1 of variance 2/3: dx = r·(g − mean(g) − x̂·mean(g·x̂)) for g =
    // (1, 0, 0)
    let operands: [(&[usize], &[f64]); 3] =
        [(&[1, 3], &[1.0, 2.0, 3.0]), (&[3], &[1.0; 3]), (&[3], &[0.0; 3])];
    let found = gradients(
        "LayerNormalization",
        &operands,
        &[],
        vec![float("epsilon", 0.0)],
        Some(&[1.0, 0.0, 0.0]),
    );
    let r = 1.5f64.sqrt();
    assert_close(&found[0], &[r / 6.0, -r / 3.0, r / 6.0], "input");
    assert_close(&found[1], &[-r, 0.0, 0.0], "scale");
    assert_close(&found[2], &[1.0, 0.0, 0.0], "bias");
}

#[test]
fn rms_norm_hands_its_gradient_on() {
    // mean square 12.5: dx = r·(g − x̂·mean(g·x̂)) with x̂ = (3, 4)·r and g = (1, 0),
    // orthogonal to x
    let operands: [(&[usize], &[f64]); 2] = [(&[1, 2], &[3.0, 4.0]), (&[2], &[1.0; 2])];
    let found = gradients(
        "RMSNormalization",
        &operands,
        &[],
        vec![float("epsilon", 0.0)],
        Some(&[1.0, 0.0]),
    );
    let r = 1.0 / 12.5f64.sqrt();
    assert_close(&found[0], &[r * (1.0 - 9.0 / 25.0), -r * 12.0 / 25.0], "input");
    assert_close(&found[1], &[3.0 * r, 0.0], "scale");
}

#[test]
fn conv2d_of_stride_two_on_a_map_that_is_not_square() {
    // each position counts the windows that read it; the last column of 4 is read by none
    let attributes = vec![ints("strides", &[2, 2])];
    let found = gradients(
        "Conv",
        &[(&[1, 1, 5, 4], &[1.0; 20]), (&[1, 1, 3, 3], &[1.0; 9])],
        &[],
        attributes,
        None,
    );
    let (one, two) = ([1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.0]);
    assert_eq!(found[0], [one, one, two, one, one].concat());
    assert_eq!(found[1], [2.0; 9]);
}

#[test]
fn relu_and_abs_at_zero_have_no_gradient() {
    assert_eq!(slopes("Relu", &[0.0], &[], vec![]), [0.0]);
    assert_eq!(slopes("Abs", &[0.0], &[], vec![]), [0.0]);
}

#[test]
fn constants_that_a_small_file_blows_up_are_refused() {
    // a shape of one node, and the sum of many nodes that are each small enough
    for (size, nodes) in [(1 << 25, 1), (1 << 23, 12)] {
        let mut net = Net::new(17);
        net.float("p0", &[1], &[0.5]);
        net.int64("k0", &[1], &[size]);
        for node in 0..nodes {
            net.node("ConstantOfShape", &["k0"], &[&format!("c{node}")], vec![]);
        }
        net.node("Mul", &["p0", "c0"], &["y"], vec![]);
        net.output("y");
        let trainability = nst_cache::student::Student::check(&net.model()).unwrap();
        let reasons: Vec<&str> =
            trainability.blockers.iter().map(|(.., reason)| reason.as_str()).collect();
        assert!(
            reasons.len() == 1
                && (reasons[0].contains("at most") || reasons[0].contains("fill the memory")),
            "{reasons:?}"
        );
    }
}
