//! `LSTM` and `GRU`, one or both directions. All steps' inputs meet their weights in one product;
//! what follows is the kernels'.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::recurrent::gru::Gru;
use crate::kernel::recurrent::lstm::Lstm;
use crate::kernel::recurrent::{Curve, Sequence, add, pick};
use crate::kernel::strided::{Strided, gather, reduce_sum};
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use crate::onnx::proto::AttributeProto;
use crate::tensor::{Data, Element, data, tensor, typed};
use candle_core::{DType, Tensor};

/// The node's inputs.
const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const BIAS: usize = 3;
const LENGTHS: usize = 4;
const HIDDEN: usize = 5;
const CELL: usize = 6;
const PEEPHOLE: usize = 7;
const SLOTS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Lstm,
    /// Whether the reset gate scales the product with the state rather than the state.
    Gru {
        inside: bool,
    },
}

#[derive(Debug)]
struct Direction {
    reverse: bool,
    /// A `GRU` has the first two.
    curves: [Curve; 3],
}

#[derive(Debug)]
struct Recurrent {
    cell: Cell,
    directions: Vec<Direction>,
    sequence: Sequence,
    /// Elements of an input of one step.
    columns: usize,
    batch_first: bool,
    /// The node's inputs that are taken as tensors.
    slots: Vec<usize>,
    /// Their shapes, and those of all outputs.
    inputs: Vec<Vec<usize>>,
    outputs: Vec<Vec<usize>>,
}

/// Where the rows of a direction lie, in [`Sequence::order`].
struct Rows {
    input: Vec<usize>,
    output: Vec<usize>,
    /// Those of the last step, among them.
    last: Vec<usize>,
    /// Of each sample, in a state.
    state: Vec<usize>,
}

/// Inputs by slot.
struct Inputs<'a, T>([Option<&'a [T]>; SLOTS]);

/// What the backward pass takes.
#[derive(Debug)]
struct RecurrentKept {
    /// By the operator's slots.
    inputs: Vec<Tensor>,
    /// Every step's state, as the first output has it.
    states: Tensor,
    directions: Vec<Unrolled>,
}

/// One direction's steps, in rows of [`Sequence::order`].
#[derive(Debug)]
struct Unrolled {
    /// `[rows, gates·width]`, as the kernel left them.
    gates: Tensor,
    /// `[rows, width]`: the cells of an `LSTM`; the kernel's second result of a `GRU`.
    second: Tensor,
}

impl<'a, T> Inputs<'a, T> {
    /// One direction's part.
    fn part(&self, slot: usize, direction: usize, of: usize) -> &'a [T] {
        let all = self.0[slot].unwrap_or_default();
        let size = all.len() / of;
        &all[direction * size..][..size]
    }
}

/// The gradients that the kernels' backward passes give.
struct Back<T> {
    /// Of what the gates are computed from.
    gates: Vec<T>,
    /// Of the recurrent weights' product and bias, where that is another.
    recurrent: Option<Vec<T>>,
    /// Of the recurrent weights, the initial states and the peepholes.
    weights: Vec<T>,
    hidden: Vec<T>,
    cell: Vec<T>,
    peephole: Vec<T>,
}

/// Source: <https://onnx.ai/onnx/operators/onnx__LSTM.html>, `onnx__GRU.html`. With S steps, N
/// samples, I columns, D directions, H elements of a state and G gates:
///
/// # Shapes
/// X `[S, N, I]`, W `[D, G·H, I]`, R `[D, G·H, H]`, B `[D, 2·G·H]`, initial states `[D, N, H]`,
/// P `[D, 3·H]`; Y `[S, D, N, H]`, last states `[D, N, H]`. With `layout` 1: X `[N, S, I]`, states
/// `[N, D, H]`, Y `[N, S, D, H]`.
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let is_lstm = site.operator() == "LSTM";
    let batch_first = site.int("layout", 0) != 0;
    let [a, b, columns] = site.shape_of(X)?;
    let (steps, batch) = if batch_first { (b, a) } else { (a, b) };
    let [_, _, width] = site.shape_of(R)?;
    if [steps, batch, columns, width].contains(&0) {
        return Err(Error::input(format!(
            "input {X}: {steps} steps of {batch} samples, {columns} elements each, with a state of \
             {width}: expected at least one of all"
        )));
    }
    let hidden_size = site.attribute("hidden_size").map(AttributeProto::i);
    if let Some(other) = hidden_size.filter(|&n| usize::try_from(n) != Ok(width)) {
        return Err(Error::input(format!(
            "hidden_size: expected {width}, as input {R} has it, found {other}"
        )));
    }
    if site.int("input_forget", 0) != 0 {
        return Err(Error::input("input_forget: expected 0, found another number"));
    }
    full_lengths(site, steps)?;
    let directions = directions(site, if is_lstm { 3 } else { 2 })?;
    let cell = if is_lstm {
        Cell::Lstm
    } else {
        Cell::Gru { inside: site.int("linear_before_reset", 0) != 0 }
    };
    let d = directions.len();
    let rows = width.saturating_mul(cell.gates());
    let state = if batch_first { vec![batch, d, width] } else { vec![d, batch, width] };
    let expected = [
        (W, vec![d, rows, columns]),
        (R, vec![d, rows, width]),
        (BIAS, vec![d, rows.saturating_mul(2)]),
        (HIDDEN, state.clone()),
        (CELL, state.clone()),
        (PEEPHOLE, vec![d, width.saturating_mul(3)]),
    ];
    let (mut slots, mut inputs) = (vec![X], vec![site.shape(X)?.to_vec()]);
    for (slot, expected) in expected {
        if slot > R && !site.has(slot) {
            continue;
        }
        let found = site.shape(slot)?;
        if found != expected {
            return Err(Error::input(format!(
                "input {slot}: expected shape {expected:?}, found {found:?}"
            )));
        }
        slots.push(slot);
        inputs.push(expected);
    }
    let all = if batch_first { vec![batch, steps, d, width] } else { vec![steps, d, batch, width] };
    let mut outputs = vec![all, state.clone()];
    if is_lstm {
        outputs.push(state);
    }
    let operator = Recurrent {
        cell,
        directions,
        sequence: Sequence { steps, batch, width },
        columns,
        batch_first,
        slots: slots.clone(),
        inputs,
        outputs: outputs.clone(),
    };
    Ok(Built::with_outputs(operator, slots, outputs))
}

/// Refuses sequences that end before the others.
fn full_lengths(site: &Site<'_>, steps: usize) -> Result<()> {
    let lengths = site.known_ints(LENGTHS)?.unwrap_or_default();
    match lengths.iter().find(|&&n| usize::try_from(n) != Ok(steps)) {
        Some(other) => Err(Error::input(format!(
            "sequence_lens: expected all {steps} steps for every sample, found {other}"
        ))),
        None => Ok(()),
    }
}

/// The directions with their activations, `count` each.
fn directions(site: &Site<'_>, count: usize) -> Result<Vec<Direction>> {
    let reverse: &[bool] = match site.text("direction").as_deref() {
        None | Some("forward") => &[false],
        Some("reverse") => &[true],
        Some("bidirectional") => &[false, true],
        Some(other) => {
            return Err(Error::input(format!(
                "direction: expected forward, reverse or bidirectional, found {other}"
            )));
        }
    };
    let usual = [Curve::Sigmoid, Curve::Tanh, Curve::Tanh];
    let named: Vec<Curve> = match site.attribute("activations") {
        Some(attribute) => attribute
            .strings
            .iter()
            .map(|name| match String::from_utf8_lossy(name).as_ref() {
                "Sigmoid" => Ok(Curve::Sigmoid),
                "Tanh" => Ok(Curve::Tanh),
                "Relu" => Ok(Curve::Relu),
                other => Err(Error::input(format!(
                    "activations: expected Sigmoid, Tanh or Relu, found {other}"
                ))),
            })
            .collect::<Result<_>>()?,
        None => usual[..count].repeat(reverse.len()),
    };
    if named.len() != count * reverse.len() {
        return Err(Error::input(format!(
            "activations: expected {count} for each of {} directions, found {}",
            reverse.len(),
            named.len()
        )));
    }
    let curves = |named: &[Curve]| {
        let mut curves = usual;
        curves[..count].copy_from_slice(named);
        curves
    };
    Ok(reverse
        .iter()
        .zip(named.chunks_exact(count))
        .map(|(&reverse, named)| Direction { reverse, curves: curves(named) })
        .collect())
}

impl Cell {
    fn gates(self) -> usize {
        if self == Self::Lstm { 4 } else { 3 }
    }
}

/// The product of two matrices.
fn product<T: Element>([m, n, k]: [usize; 3], a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let mut out = vec![T::zero(); m * n];
    batched_gemm(GemmShape { batch: 1, m, n, k }, T::one(), a, b, T::zero(), &mut out);
    out
}

impl Recurrent {
    fn rows(&self, d: usize) -> Rows {
        let (s, of) = (self.sequence, self.directions.len());
        let reverse = self.directions[d].reverse;
        let mut rows =
            Rows { input: Vec::new(), output: Vec::new(), last: Vec::new(), state: Vec::new() };
        for (row, (step, n)) in s.order().enumerate() {
            let t = if reverse { s.steps - 1 - step } else { step };
            if self.batch_first {
                rows.input.push(n * s.steps + t);
                rows.output.push((n * s.steps + t) * of + d);
            } else {
                rows.input.push(t * s.batch + n);
                rows.output.push((t * of + d) * s.batch + n);
            }
            if step + 1 == s.steps {
                rows.last.push(row);
                rows.state.push(if self.batch_first { n * of + d } else { d * s.batch + n });
            }
        }
        rows
    }

    fn inputs<'a, T: Element>(&self, held: &'a [Data<'_>]) -> Result<Inputs<'a, T>> {
        let mut inputs = Inputs([None; SLOTS]);
        for (&slot, held) in self.slots.iter().zip(held) {
            inputs.0[slot] = Some(held.of::<T>()?);
        }
        Ok(inputs)
    }

    /// Rows of the gradient or the value of a state, `[batch, width]`; zeros where there is none.
    fn state<T: Element>(&self, values: Option<&[T]>, rows: &Rows) -> Vec<T> {
        let s = self.sequence;
        values.map_or_else(
            || vec![T::zero(); s.batch * s.width],
            |values| pick(values, s.width, &rows.state),
        )
    }

    /// The product of the inputs with their weights, and the bias.
    fn fed<T: Element>(&self, inputs: &Inputs<'_, T>, d: usize, rows: &Rows) -> Vec<T> {
        let (s, of) = (self.sequence, self.directions.len());
        let width = self.cell.gates() * s.width;
        let x = pick(inputs.0[X].unwrap_or_default(), self.columns, &rows.input);
        let shape = GemmShape { batch: 1, m: s.rows(), n: width, k: self.columns };
        let inside = self.cell == Cell::Gru { inside: true };
        let (of_inputs, of_states) =
            inputs.part(BIAS, d, of).split_at(if inputs.0[BIAS].is_some() { width } else { 0 });
        let mut bias = of_inputs.to_vec();
        bias.resize(width, T::zero());
        // what is inside of the reset gate comes later
        let outside = if inside { 2 * s.width } else { width };
        bias.iter_mut().zip(of_states).take(outside).for_each(|(b, &r)| *b += r);
        let mut gates = gather(&bias, &Strided::broadcast(&[width], &[s.rows(), width]));
        let w = Matrix::transposed(inputs.part(W, d, of), 0);
        batched_gemm(shape, T::one(), Matrix::plain(&x, 0), w, T::one(), &mut gates);
        gates
    }

    fn lstm<'a, T: Element>(&self, inputs: &Inputs<'a, T>, d: usize) -> Lstm<'a, T> {
        let of = self.directions.len();
        Lstm {
            sequence: self.sequence,
            recurrent: inputs.part(R, d, of),
            peephole: inputs.0[PEEPHOLE].map(|_| inputs.part(PEEPHOLE, d, of)),
            curves: self.directions[d].curves,
        }
    }

    /// `zeros`: the bias of a state's elements where there is none.
    fn gru<'a, T: Element>(&self, inputs: &Inputs<'a, T>, d: usize, zeros: &'a [T]) -> Gru<'a, T> {
        let (of, width) = (self.directions.len(), self.sequence.width);
        let [update, part, _] = self.directions[d].curves;
        let bias = inputs.0[BIAS].map_or(zeros, |_| &inputs.part(BIAS, d, of)[5 * width..]);
        Gru {
            sequence: self.sequence,
            recurrent: inputs.part(R, d, of),
            inner_bias: (self.cell == Cell::Gru { inside: true }).then_some(bias),
            curves: [update, part],
        }
    }

    fn values<T: Element>(&self, inputs: &Inputs<'_, T>) -> Result<(Vec<Tensor>, Vec<Unrolled>)> {
        let s = self.sequence;
        let zeros = vec![T::zero(); s.width];
        let mut outputs: Vec<Vec<T>> =
            self.outputs.iter().map(|shape| vec![T::zero(); shape.iter().product()]).collect();
        let mut kept = Vec::new();
        for d in 0..self.directions.len() {
            let rows = self.rows(d);
            let mut gates = self.fed(inputs, d, &rows);
            let h = self.state(inputs.0[HIDDEN], &rows);
            let [hidden, second] = if self.cell == Cell::Lstm {
                let c = self.state(inputs.0[CELL], &rows);
                self.lstm(inputs, d).forward(&mut gates, [&h, &c])
            } else {
                self.gru(inputs, d, &zeros).forward(&mut gates, &h)
            };
            add(&hidden, s.width, &rows.output, &mut outputs[0]);
            for (state, values) in outputs[1..].iter_mut().zip([&hidden, &second]) {
                add(&pick(values, s.width, &rows.last), s.width, &rows.state, state);
            }
            kept.push(Unrolled {
                gates: tensor(gates, &[s.rows(), self.cell.gates() * s.width])?,
                second: tensor(second, &[s.rows(), s.width])?,
            });
        }
        let outputs = outputs.into_iter().zip(&self.outputs);
        Ok((outputs.map(|(values, shape)| tensor(values, shape)).collect::<Result<_>>()?, kept))
    }

    /// The backward pass through the steps. `kept`: the gates and the kernel's second result;
    /// `hidden`: what it gave; `dh`: of every step's state; `dc`: of the last cell.
    fn back<T: Element>(
        &self,
        inputs: &Inputs<'_, T>,
        (d, rows): (usize, &Rows),
        [kept, second, hidden]: [&[T]; 3],
        dh: &[T],
        dc: Vec<T>,
    ) -> Back<T> {
        let (s, width) = (self.sequence, self.sequence.width);
        let mut gates = kept.to_vec();
        let before = s.previous(hidden, &self.state(inputs.0[HIDDEN], rows));
        let sizes = [self.cell.gates() * width, width, s.rows()];
        let weights = |d: &[T], x: &[T]| -> Vec<T> {
            product(sizes, Matrix::transposed(d, 0), Matrix::plain(x, 0))
        };
        if self.cell == Cell::Lstm {
            let c = self.state(inputs.0[CELL], rows);
            let lstm = self.lstm(inputs, d);
            let [hidden, cell] = lstm.backward(&mut gates, second, &c, dh, dc);
            let peephole = lstm.peephole.map_or_else(Vec::new, |_| {
                lstm.peephole_gradient(&gates, second, &s.previous(second, &c))
            });
            let weights = weights(&gates, &before);
            return Back { gates, recurrent: None, weights, hidden, cell, peephole };
        }
        let zeros = vec![T::zero(); width];
        let gru = self.gru(inputs, d, &zeros);
        let mut inner = second.to_vec();
        let hidden = gru.backward(&mut gates, &mut inner, &before, dh);
        let recurrent = gru.inner_bias.map(|_| {
            let mut all = gates.clone();
            for (all, inner) in all.chunks_exact_mut(3 * width).zip(inner.chunks_exact(width)) {
                all[2 * width..].copy_from_slice(inner);
            }
            all
        });
        let mut of_weights = weights(recurrent.as_ref().unwrap_or(&gates), &before);
        if recurrent.is_none() {
            let own = 2 * width * width..;
            of_weights[own.clone()].copy_from_slice(&weights(&gates, &inner)[own]);
        }
        let (weights, cell, peephole) = (of_weights, Vec::new(), Vec::new());
        Back { gates, recurrent, weights, hidden, cell, peephole }
    }

    /// Gradients by slot. `outputs`: those of the outputs.
    fn gradients<T: Element>(
        &self,
        inputs: &Inputs<'_, T>,
        kept: &RecurrentKept,
        outputs: &[Option<Data<'_>>],
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (s, of) = (self.sequence, self.directions.len());
        let width = self.cell.gates() * s.width;
        let mut all: Vec<Vec<T>> =
            self.inputs.iter().map(|shape| vec![T::zero(); shape.iter().product()]).collect();
        let position = |slot| self.slots.iter().position(|&s| s == slot);
        let asked = |slot| position(slot).filter(|&i| wanted[i]);
        let own = |i: usize| outputs.get(i).and_then(Option::as_ref).map(Data::of::<T>).transpose();
        let y = data(&kept.states)?;
        let y = y.of::<T>()?;
        for (d, Unrolled { gates, second }) in kept.directions.iter().enumerate() {
            let rows = self.rows(d);
            let mut dh = own(0)?.map_or_else(
                || vec![T::zero(); s.rows() * s.width],
                |dy| pick(dy, s.width, &rows.output),
            );
            add(&self.state(own(1)?, &rows), s.width, &rows.last, &mut dh);
            let dc = self.state(own(2)?, &rows);
            let hidden = pick(y, s.width, &rows.output);
            let (gates, second) = (data(gates)?, data(second)?);
            let kept = [gates.of::<T>()?, second.of::<T>()?, &hidden];
            let back = self.back(inputs, (d, &rows), kept, &dh, dc);
            let gates = Matrix::plain(&back.gates, 0);
            if let Some(i) = asked(X) {
                let w = Matrix::plain(inputs.part(W, d, of), 0);
                let dx = product([s.rows(), self.columns, width], gates, w);
                add(&dx, self.columns, &rows.input, &mut all[i]);
            }
            let mut set = |slot, values: &[T]| {
                if let Some(i) = asked(slot) {
                    all[i][d * values.len()..][..values.len()].copy_from_slice(values);
                }
            };
            if asked(W).is_some() {
                let x = pick(inputs.0[X].unwrap_or_default(), self.columns, &rows.input);
                let gates = Matrix::transposed(&back.gates, 0);
                let sizes = [width, self.columns, s.rows()];
                set(W, &product(sizes, gates, Matrix::plain(&x, 0)));
            }
            set(R, &back.weights);
            let sums = |d: &[T]| reduce_sum(d, &[s.rows(), width], &[1, width]);
            let recurrent = back.recurrent.as_ref().unwrap_or(&back.gates);
            set(BIAS, &[sums(&back.gates), sums(recurrent)].concat());
            set(PEEPHOLE, &back.peephole);
            for (slot, values) in [(HIDDEN, &back.hidden), (CELL, &back.cell)] {
                if let Some(i) = asked(slot) {
                    add(values, s.width, &rows.state, &mut all[i]);
                }
            }
        }
        let results = all.into_iter().zip(&self.inputs).zip(wanted);
        results.map(|((v, shape), &w)| w.then(|| tensor(v, shape)).transpose()).collect()
    }
}

impl Operator for Recurrent {
    type Kept = RecurrentKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let held = inputs.iter().map(|x| data(x)).collect::<Result<Vec<_>>>()?;
        let (outputs, directions) =
            typed!(inputs[0].dtype(), |T| self.values::<T>(&self.inputs(&held)?))?;
        let kept = RecurrentKept {
            inputs: inputs.iter().map(|&x| x.clone()).collect(),
            states: outputs[0].clone(),
            directions,
        };
        Ok(OpOutput::several(outputs, kept))
    }

    fn backward(
        &self,
        kept: RecurrentKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dtype = gradients.iter().flatten().map(Tensor::dtype).next().unwrap_or(DType::F32);
        let held = kept.inputs.iter().map(data).collect::<Result<Vec<_>>>()?;
        let own = gradients
            .iter()
            .map(|g| g.as_ref().map(data).transpose())
            .collect::<Result<Vec<_>>>()?;
        typed!(dtype, |T| self.gradients::<T>(&self.inputs(&held)?, &kept, &own, wanted))
    }
}
