//! What reads at places that are computed: `TopK`, `GridSample`.

use super::super::Random;
use super::{Case, Operand, case};

pub fn cases() -> Vec<Case> {
    [tops(), grids()].concat()
}

impl Case {
    /// Outputs that are integers beside others that are not.
    fn mixed(mut self) -> Self {
        self.whole = true;
        self
    }

    fn constant(mut self, shape: &[usize], values: &[f64]) -> Self {
        self.operands.push(Operand::Floats(shape.to_vec(), values.to_vec()));
        self
    }
}

fn tops() -> Vec<Case> {
    let top = |shape: &[usize], k: i64| case("TopK", &[shape]).known(&[k]).outputs(2).mixed();
    vec![
        top(&[3, 7], 3).at(&[10, 11, 24]),
        top(&[2, 5, 3], 2).int("axis", 1).at(&[10, 11]),
        top(&[2, 5, 3], 4).int("axis", -2).int("largest", 0),
        top(&[4, 3], 1).int("axis", 0).int("sorted", 0),
        top(&[3, 1], 1),
        top(&[2, 3], 3),
        case("TopK", &[&[3, 7]]).int("k", 2).int("axis", 1).outputs(2).mixed().at(&[7]),
    ]
}

fn grids() -> Vec<Case> {
    let mut all = Vec::new();
    for padding in ["zeros", "border", "reflection"] {
        for align in [0, 1] {
            let with = |case: Case| case.text("padding_mode", padding).int("align_corners", align);
            let grid = Random(23).numbers(2 * 3 * 5 * 2, -2.5, 2.5);
            all.extend([
                with(case("GridSample", &[&[2, 3, 4, 5], &[2, 3, 2, 2]]))
                    .text("mode", "linear")
                    .at(&[20, 22]),
                with(case("GridSample", &[&[1, 2, 3, 2], &[1, 5, 4, 2]]))
                    .text("mode", "bilinear")
                    .within(-4.0, 4.0)
                    .at(&[16]),
                with(case("GridSample", &[&[2, 1, 4, 3]]).constant(&[2, 3, 5, 2], &grid))
                    .text("mode", "nearest")
                    .at(&[16, 20, 22]),
                with(case("GridSample", &[&[2, 2, 5, 4], &[2, 3, 1, 2]]))
                    .text("mode", "cubic")
                    .at(&[20, 22]),
                with(case("GridSample", &[&[1, 1, 2, 5], &[1, 4, 4, 2]]))
                    .text("mode", "bicubic")
                    .at(&[16]),
                with(case("GridSample", &[&[1, 2, 1, 1], &[1, 2, 3, 2]])).at(&[16, 20]),
            ]);
        }
    }
    all
}
