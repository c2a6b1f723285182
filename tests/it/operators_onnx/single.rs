//! Each case of the table, alone.

use super::cases::{Case, cases};
use super::graph::int;
use super::net::{Net, Objective, compare};
use candle_core::DType;
use nst_cache::student::Mode;

impl Case {
    pub fn nets(&self) -> impl Iterator<Item = (String, Net)> {
        self.opsets
            .iter()
            .map(move |&opset| (format!("{self:?} at opset {opset}"), self.net(opset)))
    }
}

#[test]
fn forward_agrees_with_onnx_runtime() {
    let mut failures = Vec::new();
    for (label, net) in cases().iter().filter(|c| !c.skip_runtime).flat_map(Case::nets) {
        let found = net
            .try_student(DType::F32)
            .and_then(|student| net.evaluate(&student, DType::F32, Mode::Eval));
        let result = found.and_then(|found| {
            compare(&found, &net.runtime().map_err(|e| format!("ONNX Runtime: {e}"))?, 1e-5)
        });
        if let Err(reason) = result {
            failures.push(format!("{label}: {reason}"));
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut failures = Vec::new();
    for (label, net) in cases().iter().filter(|c| !c.flat).flat_map(Case::nets) {
        if let Err(reason) = differentiate(&net) {
            failures.push(format!("{label}: {reason}"));
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

/// Compares the gradient of every element of every parameter with a central difference.
fn differentiate(net: &Net) -> Result<(), String> {
    net.try_student(DType::F64).and_then(|s| net.evaluate(&s, DType::F64, Mode::Train))?;
    let objective = Objective::new(net);
    let gradients = objective.gradients();
    assert!(!gradients.is_empty(), "nothing trains");
    for (i, gradient) in gradients.iter().enumerate() {
        let name = objective.student.parameters()[i].name.clone();
        let gradient = gradient.as_ref().ok_or(format!("{name} got no gradient"))?;
        let mut values = objective.get(i);
        for at in 0..values.len() {
            let old = values[at];
            let mut moved = |by: f64| {
                values[at] = old + by;
                objective.set(i, &values);
                objective.loss()
            };
            let step = 1e-5;
            let expected = (moved(step) - moved(-step)) / (2.0 * step);
            moved(0.0);
            if (gradient[at] - expected).abs() > 1e-6 * (1.0 + expected.abs()) {
                return Err(format!("gradient of {name} at {at}: {} for {expected}", gradient[at]));
            }
        }
    }
    Ok(())
}

#[test]
fn an_attribute_that_is_not_known_is_refused_by_name() {
    for (operator, attribute) in [
        ("Relu", "alpha"),
        ("Conv", "output_padding"),
        ("Softmax", "temperature"),
        ("LSTM", "clip"),
    ] {
        let mut net = Net::new(17);
        net.float("p0", &[1, 2, 4, 4], &[0.5; 32]);
        net.float("p1", &[2, 2, 3, 3], &[0.5; 36]);
        let inputs: &[&str] = if operator == "Conv" { &["p0", "p1"] } else { &["p0"] };
        net.node(operator, inputs, &["y"], vec![int(attribute, 1)]);
        net.output("y");
        // at import, before a batch has come
        let message = net.try_student(DType::F32).unwrap_err();
        assert!(
            message.contains(&format!("attribute {attribute}")) && message.contains(operator),
            "{message}"
        );
    }
}
