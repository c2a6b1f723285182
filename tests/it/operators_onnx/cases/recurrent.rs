//! Sequences: `LSTM` and `GRU`.

use super::super::graph::texts;
use super::{Case, Operand, case};

/// With weights for `gates` gates: steps, samples, columns, directions, elements of a state.
fn recurrent(
    operator: &'static str,
    gates: usize,
    [steps, batch, columns, of, width]: [usize; 5],
) -> Case {
    let rows = gates * width;
    case(operator, &[&[steps, batch, columns], &[of, rows, columns], &[of, rows, width]])
        .int("hidden_size", width as i64)
}

impl Case {
    fn of(mut self, shape: &[usize]) -> Self {
        self.operands.push(Operand::Float(shape.to_vec()));
        self
    }
}

pub fn cases() -> Vec<Case> {
    let all: &[i64] = &[7, 14, 22];
    // ours reads the sample as the first axis, which ONNX Runtime has for its GPUs alone
    let batch_first = |case: Case| case.int("layout", 1).at(&[14]).not_in_runtime();
    let mut cases = vec![
        recurrent("LSTM", 4, [5, 3, 4, 1, 2]).of(&[1, 16]).outputs(3),
        recurrent("LSTM", 4, [5, 3, 4, 1, 2]).text("direction", "reverse").outputs(2),
        recurrent("LSTM", 4, [4, 2, 3, 2, 3])
            .of(&[2, 24])
            .absent()
            .of(&[2, 2, 3])
            .of(&[2, 2, 3])
            .of(&[2, 9])
            .text("direction", "bidirectional")
            .outputs(3),
        recurrent("LSTM", 4, [3, 2, 2, 1, 3]).absent().absent().absent().absent().of(&[1, 9]),
        recurrent("LSTM", 4, [3, 2, 2, 2, 1])
            .text("direction", "bidirectional")
            .with(texts("activations", &["Tanh", "Relu", "Sigmoid", "Sigmoid", "Tanh", "Relu"])),
        // more samples than go through the steps together
        recurrent("LSTM", 4, [2, 35, 1, 1, 1]).of(&[1, 8]).outputs(3),
        recurrent("LSTM", 4, [1, 1, 1, 1, 1]),
        batch_first(recurrent("LSTM", 4, [3, 4, 2, 2, 2]))
            .of(&[2, 16])
            .absent()
            .of(&[3, 2, 2])
            .of(&[3, 2, 2])
            .text("direction", "bidirectional")
            .outputs(3),
    ];
    for inside in [0, 1] {
        let gru = |sizes| recurrent("GRU", 3, sizes).int("linear_before_reset", inside);
        cases.extend([
            gru([5, 3, 4, 1, 2]).of(&[1, 12]).outputs(2),
            gru([5, 3, 4, 1, 2]).text("direction", "reverse"),
            gru([4, 2, 3, 2, 3])
                .of(&[2, 18])
                .absent()
                .of(&[2, 2, 3])
                .text("direction", "bidirectional")
                .outputs(2),
            gru([3, 2, 2, 1, 1]).with(texts("activations", &["Tanh", "Relu"])),
            gru([2, 35, 1, 1, 1]).of(&[1, 6]).outputs(2),
            batch_first(gru([3, 4, 2, 1, 2])).of(&[1, 12]).absent().of(&[3, 1, 2]).outputs(2),
        ]);
    }
    cases.into_iter().map(|case| if case.skip_runtime { case } else { case.at(all) }).collect()
}
