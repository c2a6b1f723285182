//! `Einsum` of one or two operands: brought to a batch of matrix products, labels that only one
//! operand has and the result lacks summed first.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, dense_strides, gather, reduce_sum, scatter};
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

/// An operand with its labels in the order of the product: batch, its own rows or columns,
/// contracted, summed.
#[derive(Debug)]
struct Term {
    shape: Vec<usize>,
    view: Strided,
    /// Sizes of what is kept and of what is summed away.
    kept: usize,
    summed: usize,
}

#[derive(Debug)]
struct Einsum {
    gemm: GemmShape,
    terms: Vec<Term>,
    /// The product `[batch, m, n]` in the output's order, and the inverse.
    there: Strided,
    back: Strided,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let equation: String =
        site.text("equation").unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
    let wrong = |why: &str| Error::input(format!("equation {equation}: {why}"));
    let (left, right) =
        equation.split_once("->").map_or((equation.as_str(), None), |(l, r)| (l, Some(r)));
    let operands: Vec<Vec<char>> = left.split(',').map(|o| o.chars().collect()).collect();
    if operands.len() > 2 || operands.len() != site.shapes.len() {
        return Err(wrong("expected one or two operands, as many as inputs"));
    }
    if !operands
        .iter()
        .flatten()
        .chain(&right.map_or(Vec::new(), |r| r.chars().collect()))
        .all(char::is_ascii_alphabetic)
    {
        return Err(wrong("expected letters alone"));
    }
    let mut sizes: Vec<(char, usize)> = Vec::new();
    for (i, labels) in operands.iter().enumerate() {
        if labels.len() != site.shape(i)?.len() {
            return Err(wrong(&format!("operand {i} has shape {:?}", site.shape(i)?)));
        }
        for (&label, &size) in labels.iter().zip(site.shape(i)?) {
            match sizes.iter().find(|(l, _)| *l == label) {
                Some((_, other)) if *other != size => {
                    return Err(wrong(&format!("{label} is {other} and {size}")));
                }
                Some(_) => {}
                None => sizes.push((label, size)),
            }
        }
    }
    let size = |label: char| sizes.iter().find(|(l, _)| *l == label).map_or(1, |(_, n)| *n);
    let result: Vec<char> = right.map_or_else(
        || {
            // what occurs once, in the order of the alphabet
            let all: Vec<char> = operands.concat();
            let mut once: Vec<char> = sizes
                .iter()
                .map(|(l, _)| *l)
                .filter(|l| all.iter().filter(|o| *o == l).count() == 1)
                .collect();
            once.sort_unstable();
            once
        },
        |right| right.chars().collect(),
    );
    if result
        .iter()
        .enumerate()
        .any(|(i, l)| result[..i].contains(l) || !sizes.iter().any(|(s, _)| s == l))
    {
        return Err(wrong("the result repeats a label or has one that no operand has"));
    }
    let none = Vec::new();
    let (a, b) = (&operands[0], operands.get(1).unwrap_or(&none));
    let chosen = |keep: &dyn Fn(&char) -> bool| {
        sizes.iter().map(|(l, _)| *l).filter(|l| keep(l)).collect::<Vec<char>>()
    };
    let batch = chosen(&|l| a.contains(l) && b.contains(l) && result.contains(l));
    let contracted = chosen(&|l| a.contains(l) && b.contains(l) && !result.contains(l));
    let own =
        |x: &[char], y: &[char]| chosen(&|l| x.contains(l) && !y.contains(l) && result.contains(l));
    let (rows, columns) = (own(a, b), own(b, a));
    let product = |labels: &[char]| labels.iter().map(|&l| size(l)).product::<usize>();
    let mut terms = Vec::new();
    for (i, (labels, free)) in operands.iter().zip([&rows, &columns]).enumerate() {
        let other = if i == 0 { b } else { a };
        let lost = chosen(&|l| labels.contains(l) && !other.contains(l) && !result.contains(l));
        // a product takes its left operand as [batch, m, k], its right one as [batch, k, n]
        let order = if i == 0 {
            [&batch, free, &contracted, &lost]
        } else {
            [&batch, &contracted, free, &lost]
        };
        let shape = site.shape(i)?.to_vec();
        let strides = dense_strides(&shape);
        let order: Vec<char> = order.into_iter().flatten().copied().collect();
        // a label that an operand repeats walks its diagonal
        let stride = |label: &char| {
            labels.iter().zip(&strides).filter(|(l, _)| *l == label).map(|(_, s)| s).sum()
        };
        let view = Strided {
            shape: order.iter().map(|&l| size(l)).collect(),
            strides: order.iter().map(stride).collect(),
            offset: 0,
        };
        let summed = product(&lost);
        terms.push(Term { shape, kept: product(&order) / summed.max(1), summed, view });
    }
    let gemm = GemmShape {
        batch: product(&batch),
        m: product(&rows),
        n: product(&columns),
        k: product(&contracted),
    };
    let made: Vec<char> = [batch, rows, columns].concat();
    let place = |from: &[char], to: &[char]| {
        let strides = dense_strides(&from.iter().map(|&l| size(l)).collect::<Vec<_>>());
        let stride = |label: &char| {
            from.iter().zip(&strides).find(|(l, _)| *l == label).map_or(0, |(_, s)| *s)
        };
        Strided {
            shape: to.iter().map(|&l| size(l)).collect(),
            strides: to.iter().map(stride).collect(),
            offset: 0,
        }
    };
    let (there, back) = (place(&made, &result), place(&result, &made));
    let output = there.shape.clone();
    let inputs: Vec<usize> = (0..terms.len()).collect();
    Ok(Built::new(Einsum { gemm, terms, there, back, output: output.clone() }, inputs, output))
}

impl Term {
    fn matrices<T: Element>(&self, x: &[T]) -> Vec<T> {
        let full = gather(x, &self.view);
        if self.summed == 1 {
            full
        } else {
            reduce_sum(&full, &[self.kept, self.summed], &[self.kept, 1])
        }
    }

    /// The adjoint of [`Term::matrices`].
    fn back<T: Element>(&self, d: &[T]) -> Result<Tensor> {
        let mut dx = vec![T::zero(); self.shape.iter().product()];
        if self.summed == 1 {
            scatter(d, &self.view, &mut dx);
        } else {
            scatter(
                &gather(d, &Strided::broadcast(&[self.kept, 1], &[self.kept, self.summed])),
                &self.view,
                &mut dx,
            );
        }
        tensor(dx, &self.shape)
    }
}

impl Operator for Einsum {
    type Kept = Vec<Tensor>;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = typed!(inputs[0].dtype(), |T| {
            let held = inputs.iter().map(|x| data(x)).collect::<Result<Vec<_>>>()?;
            let a = self.terms[0].matrices(held[0].of::<T>()?);
            let made = match (self.terms.get(1), held.get(1)) {
                (Some(term), Some(b)) => {
                    let GemmShape { batch, m, n, k } = self.gemm;
                    let b = term.matrices(b.of::<T>()?);
                    let mut out: Vec<T> = vec![0.0; batch * m * n];
                    batched_gemm(
                        self.gemm,
                        1.0,
                        Matrix::plain(&a, m * k),
                        Matrix::plain(&b, k * n),
                        0.0,
                        &mut out,
                    );
                    out
                }
                _ => a,
            };
            tensor(gather(&made, &self.there), &self.output)
        })?;
        Ok(OpOutput::one(y, inputs.iter().map(|&x| x.clone()).collect()))
    }

    fn backward(
        &self,
        operands: Vec<Tensor>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        let GemmShape { batch, m, n, k } = self.gemm;
        typed!(dy.dtype(), |T| {
            let d = gather(held.of::<T>()?, &self.back);
            let ([first, second], [a, b]) = (self.terms.as_slice(), operands.as_slice()) else {
                return Ok(vec![Some(self.terms[0].back(&d)?)]);
            };
            let mut result = vec![None, None];
            if wanted[0] {
                let b = second.matrices(data(b)?.of::<T>()?);
                let mut da: Vec<T> = vec![0.0; batch * m * k];
                let shape = GemmShape { batch, m, n: k, k: n };
                batched_gemm(
                    shape,
                    1.0,
                    Matrix::plain(&d, m * n),
                    Matrix::transposed(&b, k * n),
                    0.0,
                    &mut da,
                );
                result[0] = Some(first.back(&da)?);
            }
            if wanted[1] {
                let a = first.matrices(data(a)?.of::<T>()?);
                let mut db: Vec<T> = vec![0.0; batch * k * n];
                let shape = GemmShape { batch, m: k, n, k: m };
                batched_gemm(
                    shape,
                    1.0,
                    Matrix::transposed(&a, m * k),
                    Matrix::plain(&d, m * n),
                    0.0,
                    &mut db,
                );
                result[1] = Some(second.back(&db)?);
            }
            Ok(result)
        })
    }
}
