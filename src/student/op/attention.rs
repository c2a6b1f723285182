//! `Attention` (opset 23): `softmax(scale·Q·Kᵀ + mask)·V` by head, heads as an axis or packed,
//! keys and values shared by groups of heads.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, broadcast_zip, dense_strides, gather, reduce_sum, scatter};
use crate::kernel::{Float, GemmShape, Matrix, batched_gemm, softmax};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

/// An operand or the result: its own shape, and its view as `[batch, heads, length, width]`.
#[derive(Debug)]
struct Heads {
    shape: Vec<usize>,
    view: Strided,
}

#[derive(Debug)]
struct Mask {
    shape: Vec<usize>,
    /// True keeps; otherwise it is added.
    boolean: bool,
}

#[derive(Debug)]
struct Attention {
    query: Heads,
    key: Heads,
    value: Heads,
    output: Heads,
    mask: Option<Mask>,
    scale: f64,
    causal: bool,
}

#[derive(Debug)]
struct AttentionKept {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    /// The softmax, `[batch, heads, rows, columns]`.
    weights: Tensor,
}

impl Heads {
    /// `packed`: the number of heads that the last of three axes holds.
    fn new(shape: &[usize], packed: Option<usize>) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "attention: shape {shape:?} in {packed:?} heads, expected [N, heads, L, D] or [N, \
                 L, heads·D]"
            ))
        };
        let strides = dense_strides(shape);
        let view = match (shape, packed) {
            (&[n, l, width], Some(heads)) if heads > 0 && width.is_multiple_of(heads) => {
                let depth = width / heads;
                Strided {
                    shape: vec![n, heads, l, depth],
                    strides: vec![strides[0], depth.cast_signed(), strides[1], 1],
                    offset: 0,
                }
            }
            ([_, _, _, _], _) => Strided::dense(shape),
            _ => return Err(wrong()),
        };
        Ok(Self { shape: shape.to_vec(), view })
    }

    fn sizes(&self) -> [usize; 4] {
        [self.view.shape[0], self.view.shape[1], self.view.shape[2], self.view.shape[3]]
    }

    /// The elements by head, each head repeated.
    fn read<T: Element>(&self, x: &[T], repeats: usize) -> Vec<T> {
        let own = gather(x, &self.view);
        if repeats == 1 {
            return own;
        }
        let [n, heads, l, depth] = self.sizes();
        gather(
            &own,
            &Strided::broadcast(&[n * heads, 1, l * depth], &[n * heads, repeats, l * depth]),
        )
    }

    /// The adjoint of [`Heads::read`].
    fn write<T: Element>(&self, d: &[T], repeats: usize) -> Result<Tensor> {
        let mut out = vec![T::zero(); self.shape.iter().product()];
        if repeats == 1 {
            scatter(d, &self.view, &mut out);
        } else {
            let [n, heads, l, depth] = self.sizes();
            scatter(
                &reduce_sum(d, &[n * heads, repeats, l * depth], &[n * heads, 1, l * depth]),
                &self.view,
                &mut out,
            );
        }
        tensor(out, &self.shape)
    }
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let packed = |name| usize::try_from(site.int(name, 0)).ok().filter(|&n| n > 0);
    let kv = packed("kv_num_heads");
    let query = Heads::new(site.shape(0)?, packed("q_num_heads"))?;
    let (key, value) = (Heads::new(site.shape(1)?, kv)?, Heads::new(site.shape(2)?, kv)?);
    let ([n, heads, rows, depth], [kn, groups, columns, kd], [vn, vg, vl, width]) =
        (query.sizes(), key.sizes(), value.sizes());
    if [kn, vn] != [n, n]
        || kd != depth
        || vg != groups
        || vl != columns
        || groups == 0
        || !heads.is_multiple_of(groups)
    {
        return Err(Error::input(format!(
            "attention: query {:?}, key {:?} and value {:?} do not fit",
            query.shape, key.shape, value.shape
        )));
    }
    if (4..site.shapes.len()).any(|i| site.has(i)) {
        return Err(Error::input("attention: past keys and values are not supported"));
    }
    if site.float("softcap", 0.0) != 0.0 {
        return Err(Error::input("softcap: expected 0, found another number"));
    }
    let mask = if site.has(3) {
        let shape = site.shape(3)?.to_vec();
        let full = [n, heads, rows, columns];
        if super::binary::broadcast(&shape, &full)? != full {
            return Err(Error::input(format!("mask: shape {shape:?} does not repeat to {full:?}")));
        }
        Some(Mask { shape, boolean: site.integer(3) })
    } else {
        None
    };
    #[allow(clippy::cast_precision_loss, reason = "the width of a head")]
    let usual = 1.0 / (depth.max(1) as f64).sqrt();
    let scale = site.attribute("scale").map_or(usual, |a| f64::from(a.f()));
    let (shape, of_output) = if query.shape.len() == 3 {
        (vec![n, rows, heads * width], Some(heads))
    } else {
        (vec![n, heads, rows, width], None)
    };
    let output = Heads::new(&shape, of_output)?;
    let inputs: &[usize] = if mask.is_some() { &[0, 1, 2, 3] } else { &[0, 1, 2] };
    let operator =
        Attention { query, key, value, output, mask, scale, causal: site.int("is_causal", 0) != 0 };
    Ok(Built::new(operator, inputs, shape))
}

impl Attention {
    /// The product of queries and keys; others have the same batch.
    fn scores(&self) -> GemmShape {
        let ([n, heads, m, k], [_, _, columns, _]) = (self.query.sizes(), self.key.sizes());
        GemmShape { batch: n * heads, m, n: columns, k }
    }

    fn repeats(&self) -> usize {
        self.query.sizes()[1] / self.key.sizes()[1]
    }

    fn weights<T: Element>(&self, q: &[T], k: &[T], mask: Option<&[T]>) -> Vec<T> {
        let shape = self.scores();
        let mut scores = vec![T::zero(); shape.batch * shape.m * shape.n];
        let (left, right) =
            (Matrix::plain(q, shape.m * shape.k), Matrix::transposed(k, shape.n * shape.k));
        batched_gemm(shape, <T as Float>::of(self.scale), left, right, T::zero(), &mut scores);
        if let (Some(values), Some(mask)) = (mask, &self.mask) {
            let full = self.full();
            let hidden = T::neg_infinity();
            scores = if mask.boolean {
                broadcast_zip((&scores, &full), (values, &mask.shape), &full, |s, keep| {
                    if keep == T::zero() { hidden } else { s }
                })
            } else {
                broadcast_zip((&scores, &full), (values, &mask.shape), &full, |s, m| s + m)
            };
        }
        if self.causal {
            for rows in scores.chunks_exact_mut((shape.m * shape.n).max(1)) {
                for (i, row) in rows.chunks_exact_mut(shape.n.max(1)).enumerate() {
                    row.iter_mut().skip(i + 1).for_each(|s| *s = T::neg_infinity());
                }
            }
        }
        let mut weights = softmax::forward(&scores, shape.n);
        // a query that no key is shown to attends to nothing
        for (row, scores) in
            weights.chunks_exact_mut(shape.n.max(1)).zip(scores.chunks_exact(shape.n.max(1)))
        {
            if scores.iter().all(|&s| s == T::neg_infinity()) {
                row.fill(T::zero());
            }
        }
        weights
    }

    fn full(&self) -> [usize; 4] {
        let [n, heads, rows, _] = self.query.sizes();
        [n, heads, rows, self.key.sizes()[2]]
    }
}

impl Operator for Attention {
    type Kept = AttentionKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let held = inputs.iter().map(|x| data(x)).collect::<Result<Vec<_>>>()?;
        let GemmShape { batch, m, n, .. } = self.scores();
        let width = self.value.sizes()[3];
        typed!(inputs[0].dtype(), |T| {
            let (q, k) = (
                self.query.read(held[0].of::<T>()?, 1),
                self.key.read(held[1].of::<T>()?, self.repeats()),
            );
            let v = self.value.read(held[2].of::<T>()?, self.repeats());
            let mask = held.get(3).map(|mask| mask.of::<T>()).transpose()?;
            let weights = self.weights(&q, &k, mask);
            let mut y: Vec<T> = vec![0.0; batch * m * width];
            let shape = GemmShape { batch, m, n: width, k: n };
            batched_gemm(
                shape,
                1.0,
                Matrix::plain(&weights, m * n),
                Matrix::plain(&v, n * width),
                0.0,
                &mut y,
            );
            let kept = AttentionKept {
                query: inputs[0].clone(),
                key: inputs[1].clone(),
                value: inputs[2].clone(),
                weights: tensor(weights, &self.full())?,
            };
            Ok(OpOutput::one(self.output.write(&y, 1)?, kept))
        })
    }

    /// With P the weights: dV = Pᵀ·dY, dS = softmax'(P, dY·Vᵀ), dQ = scale·dS·K, dK =
    /// scale·dSᵀ·Q, and dS is the mask's gradient.
    fn backward(
        &self,
        kept: AttentionKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let GemmShape { batch, m, n, k: depth } = self.scores();
        let width = self.value.sizes()[3];
        let (q, k, v) = (data(&kept.query)?, data(&kept.key)?, data(&kept.value)?);
        let (p, held) = (data(&kept.weights)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let (q, k) =
                (self.query.read(q.of::<T>()?, 1), self.key.read(k.of::<T>()?, self.repeats()));
            let (v, p, d) = (
                self.value.read(v.of::<T>()?, self.repeats()),
                p.of::<T>()?,
                self.output.read(held.of::<T>()?, 1),
            );
            let product = |m, n, k, factor: f64, left, right| {
                let mut out: Vec<T> = vec![0.0; batch * m * n];
                batched_gemm(
                    GemmShape { batch, m, n, k },
                    <T as Float>::of(factor),
                    left,
                    right,
                    0.0,
                    &mut out,
                );
                out
            };
            let mut result = vec![None; wanted.len()];
            if wanted[2] {
                let dv = product(
                    n,
                    width,
                    m,
                    1.0,
                    Matrix::transposed(p, m * n),
                    Matrix::plain(&d, m * width),
                );
                result[2] = Some(self.value.write(&dv, self.repeats())?);
            }
            let dp = product(
                m,
                n,
                width,
                1.0,
                Matrix::plain(&d, m * width),
                Matrix::transposed(&v, n * width),
            );
            let ds = softmax::backward(p, &dp, n);
            if wanted[0] {
                let dq = product(
                    m,
                    depth,
                    n,
                    self.scale,
                    Matrix::plain(&ds, m * n),
                    Matrix::plain(&k, n * depth),
                );
                result[0] = Some(self.query.write(&dq, 1)?);
            }
            if wanted[1] {
                let dk = product(
                    n,
                    depth,
                    m,
                    self.scale,
                    Matrix::transposed(&ds, m * n),
                    Matrix::plain(&q, m * depth),
                );
                result[1] = Some(self.key.write(&dk, self.repeats())?);
            }
            if let (Some(mask), Some(true)) =
                (self.mask.as_ref().filter(|mask| !mask.boolean), wanted.get(3))
            {
                result[3] = Some(tensor(reduce_sum(&ds, &self.full(), &mask.shape), &mask.shape)?);
            }
            Ok(result)
        })
    }
}
