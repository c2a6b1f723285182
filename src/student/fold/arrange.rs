//! Known values gathered, concatenated and repeated.

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
