//! Known values picked, joined, repeated and written into each other.

use crate::error::{Error, Result};
use crate::student::host::{Host, Numbers, limit};
use crate::student::op::site::{Site, axis};
use crate::student::op::tile;

pub(super) fn gathered(x: &Host, indices: &Host, at: i64) -> Result<Host> {
    let at = axis(at, x.shape.len())?;
    let size = i64::try_from(x.shape[at]).unwrap_or(i64::MAX);
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut places = Vec::new();
    for block in 0..outer {
        for &i in indices.ints()? {
            let i =
                usize::try_from(if i < 0 { i + size } else { i }).ok().filter(|&i| i < x.shape[at]);
            let i = i.ok_or_else(|| Error::input(format!("indices: expected less than {size}")))?;
            let start = (block * x.shape[at] + i) * inner;
            places.extend(start..start + inner);
        }
    }
    let shape = [&x.shape[..at], &indices.shape[..], &x.shape[at + 1..]].concat();
    limit(&shape)?;
    Ok(picked(x, &places, shape))
}

fn picked(x: &Host, places: &[usize], shape: Vec<usize>) -> Host {
    match &x.numbers {
        Numbers::Int(v) => Host::int(shape, places.iter().map(|&p| v[p]).collect()),
        Numbers::Float(v) => Host::float(shape, places.iter().map(|&p| v[p]).collect()),
    }
}

pub(super) fn concatenated(site: &Site<'_>) -> Result<Host> {
    let parts = (0..site.shapes.len()).map(|i| site.given(i)).collect::<Result<Vec<_>>>()?;
    let first = parts.first().ok_or_else(|| Error::input("concat of nothing"))?;
    let at = axis(site.int("axis", 0), first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[at] = 0;
    for part in &parts {
        let fits = part.shape.len() == shape.len()
            && part.shape.iter().zip(&shape).enumerate().all(|(i, (a, b))| i == at || a == b);
        if !fits {
            return Err(Error::input(format!(
                "shapes {:?} and {:?} do not join along axis {at}",
                first.shape, part.shape
            )));
        }
        shape[at] += part.shape[at];
    }
    let outer: usize = shape[..at].iter().product();
    let run = |part: &Host| part.shape[at..].iter().product::<usize>();
    if parts.iter().all(|p| !p.is_float()) {
        let values = parts.iter().map(|p| p.ints()).collect::<Result<Vec<_>>>()?;
        let joined = (0..outer).flat_map(|o| {
            parts
                .iter()
                .zip(&values)
                .flat_map(move |(p, v)| v[o * run(p)..(o + 1) * run(p)].iter().copied())
        });
        return Ok(Host::int(shape, joined.collect()));
    }
    let values: Vec<Vec<f64>> = parts.iter().map(|p| p.floats()).collect();
    let mut joined = Vec::new();
    for o in 0..outer {
        for (p, v) in parts.iter().zip(&values) {
            joined.extend_from_slice(&v[o * run(p)..(o + 1) * run(p)]);
        }
    }
    Ok(Host::float(shape, joined))
}

pub(super) fn tiled(x: &Host, repeats: &[usize]) -> Result<Host> {
    let (view, output) = tile::tiled(&x.shape, repeats)?;
    Ok(x.viewed(&view)?.reshaped(output))
}

/// `ScatterND` without a reduction: `updates` written to the places that the rows of `indices`
/// name.
pub(super) fn scattered(
    x: &Host,
    indices: &Host,
    updates: &Host,
    reduction: Option<&str>,
) -> Result<Host> {
    if let Some(other) = reduction.filter(|r| *r != "none") {
        return Err(Error::input(format!("reduction {other} is not supported")));
    }
    let wrong = || {
        Error::input(format!(
            "indices {:?} and updates {:?} do not fit {:?}",
            indices.shape, updates.shape, x.shape
        ))
    };
    let (&depth, rows) = indices.shape.split_last().ok_or_else(wrong)?;
    let inner = x.shape.get(depth..).ok_or_else(wrong)?;
    if updates.shape != [rows, inner].concat() || x.is_float() != updates.is_float() {
        return Err(wrong());
    }
    let run: usize = inner.iter().product();
    let mut starts = Vec::new();
    for row in indices.ints()?.chunks(depth.max(1)) {
        let mut start = 0;
        for (&i, &size) in row.iter().zip(&x.shape) {
            let i = if i < 0 { i + i64::try_from(size).unwrap_or(i64::MAX) } else { i };
            let i = usize::try_from(i)
                .ok()
                .filter(|&i| i < size)
                .ok_or_else(|| Error::input(format!("indices: expected less than {size}")))?;
            start = start * size + i;
        }
        starts.push(start * run);
    }
    let numbers = match (&x.numbers, &updates.numbers) {
        (Numbers::Int(v), Numbers::Int(u)) => Numbers::Int(written(v, u, &starts, run)),
        (Numbers::Float(v), Numbers::Float(u)) => Numbers::Float(written(v, u, &starts, run)),
        _ => return Err(wrong()),
    };
    Ok(Host { shape: x.shape.clone(), numbers })
}

/// A copy with runs of elements replaced from these places on.
fn written<T: Copy>(values: &[T], updates: &[T], starts: &[usize], run: usize) -> Vec<T> {
    let mut out = values.to_vec();
    for (&start, update) in starts.iter().zip(updates.chunks(run.max(1))) {
        out[start..start + run].copy_from_slice(update);
    }
    out
}
