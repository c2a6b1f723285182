//! `bench read`: a cache's reader and the trainer's batches, against a bare loop of checksums and
//! zstd over the same bytes.

use crate::summary::median;
use crate::synthetic::{self, Synthetic};
use crate::{Context, emit, emit_json};
use comfy_table::{CellAlignment, Table, presets};
use nst_cache::cache::{Cache, Codec, Decoder};
use nst_cache::data::Take;
use nst_cache::error::{Error, Result};
use nst_cache::trainer::loader::{Steps, stream};
use nst_cache::trainer::source::{CacheSource, Source};
use rayon::prelude::*;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `bench read`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cache's folder [default: a temporary one of random maps]
    #[arg(value_name = "CACHE")]
    cache: Option<PathBuf>,
    /// Rows of the random cache
    #[arg(
        long,
        conflicts_with = "cache",
        default_value_t = NonZeroUsize::new(10_000).unwrap_or(NonZeroUsize::MIN)
    )]
    rows: NonZeroUsize,
    /// Shape of its maps
    #[arg(
        long,
        conflicts_with = "cache",
        num_args = 3,
        value_names = ["C", "H", "W"],
        default_values_t = [256, 8, 8]
    )]
    shape: Vec<usize>,
    /// How it is stored
    #[arg(long, conflicts_with = "cache", value_name = "auto|none|zstd", default_value = "auto")]
    compress: Compression,
    /// Rows of a batch
    #[arg(long, default_value_t = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))]
    batch: NonZeroUsize,
    /// Rounds of all three in turn
    #[arg(long, default_value_t = NonZeroUsize::new(5).unwrap_or(NonZeroUsize::MIN))]
    rounds: NonZeroUsize,
    /// Drop the cache's pages from memory before each
    #[arg(long)]
    cold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compression {
    Auto,
    None,
    Zstd,
}

/// What was measured, over all taps' arrays; medians over the rounds.
#[derive(Debug, Serialize)]
struct ReadReport {
    rows: usize,
    threads: usize,
    cold: bool,
    /// Decoded bytes of an epoch.
    bytes: usize,
    /// Checksums and decompression alone, in 1e6 decoded bytes a second.
    bare_mb_per_s: f64,
    /// The reader: rows in order into memory of the caller.
    reader_mb_per_s: f64,
    /// The trainer's shuffled batches: tensors in single precision.
    batches_mb_per_s: f64,
    batches_rows_per_s: f64,
    /// The reader against the bare loop: the median of the rounds' ratios, and each.
    ratio: f64,
    ratios: Vec<f64>,
}

pub fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let Some(folder) = &args.cache else {
        let folder = tempfile::Builder::new()
            .prefix("nst-cache-bench")
            .tempdir()
            .map_err(|e| Error::input("temporary folder").because(e))?;
        context.monitor.note(&format!("writing a cache of {} rows", args.rows));
        random(args, folder.path())?;
        return measure(args, folder.path(), context);
    };
    measure(args, folder, context)
}

/// Maps behind a rectifier, as the comparison's scripts in Python make them.
fn random(args: &Args, folder: &Path) -> Result<()> {
    let &[channels, height, width] = args.shape.as_slice() else {
        return Err(Error::input(format!("--shape: expected C H W, found {:?}", args.shape)));
    };
    let codec = match args.compress {
        Compression::Auto => None,
        Compression::None => Some(Codec::Raw),
        Compression::Zstd => Some(Codec::Zstd),
    };
    let stages = &[[channels, height, width]];
    synthetic::write(
        folder,
        &Synthetic {
            side: 32,
            classes: 10,
            stages,
            signed: false,
            rows: args.rows.get(),
            batch: args.batch.get(),
            codec,
        },
    )
}

#[allow(clippy::cast_precision_loss, reason = "counts of rows and bytes")]
fn measure(args: &Args, folder: &Path, context: &Context<'_>) -> Result<()> {
    let cache = Cache::open(folder)?;
    let arrays: Vec<&str> = cache
        .manifest()
        .view_arrays
        .iter()
        .map(|a| a.path.as_str())
        .filter(|path| path.starts_with("taps/"))
        .collect();
    if arrays.is_empty() {
        return Err(Error::input(format!(
            "cache {}: expected taps to read, found none",
            folder.display()
        )));
    }
    let bytes = bare(&cache, &arrays)?;
    let (mut alone, mut read, mut batched, mut ratios) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds.get() {
        let time = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
            if args.cold {
                cache.evict();
            }
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let bare = time(&|| bare(&cache, &arrays).map(drop))?;
        let reader = time(&|| reader(&cache, &arrays))?;
        batched.push(time(&|| batches(&cache, args.batch.get(), context.threads))?);
        ratios.push(bare / reader);
        alone.push(bare);
        read.push(reader);
    }
    let rate = |seconds: &[f64]| bytes as f64 / 1e6 / median(seconds);
    let rows = cache.manifest().rows;
    let report = ReadReport {
        rows,
        threads: context.threads,
        cold: args.cold,
        bytes,
        bare_mb_per_s: rate(&alone),
        reader_mb_per_s: rate(&read),
        batches_mb_per_s: rate(&batched),
        batches_rows_per_s: rows as f64 / median(&batched),
        ratio: median(&ratios),
        ratios,
    };
    if context.json {
        return emit_json(&report);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "MB/s decoded", "rows/s"]);
    let per_row = bytes as f64 / 1e6 / rows.max(1) as f64;
    for (what, rate) in [
        ("checksums and zstd alone", report.bare_mb_per_s),
        ("reader, in order", report.reader_mb_per_s),
        ("the trainer's batches, shuffled", report.batches_mb_per_s),
    ] {
        table.add_row([what.to_owned(), format!("{rate:.0}"), format!("{:.0}", rate / per_row)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let state = if args.cold { "cold" } else { "warm" };
    emit(&format!(
        "{table}\n{rows} rows, {} threads, {state}: reader against bare {:.3}",
        context.threads, report.ratio
    ))
}

/// Every segment of every array, side by side: the unit of work of both loops.
fn segments<'a>(cache: &'a Cache, arrays: &'a [&str]) -> Vec<(&'a str, usize)> {
    arrays
        .iter()
        .flat_map(|path| {
            (0..cache.manifest().segments_per_view()).map(move |segment| (*path, segment))
        })
        .collect()
}

/// Gives the decoded bytes.
fn bare(cache: &Cache, arrays: &[&str]) -> Result<usize> {
    let work = segments(cache, arrays).into_par_iter();
    work.map_init(Decoder::default, |decoder, (path, segment)| {
        cache.array(path)?.bare(decoder, 0, segment)
    })
    .sum()
}

fn reader(cache: &Cache, arrays: &[&str]) -> Result<()> {
    let manifest = cache.manifest();
    segments(cache, arrays).into_par_iter().try_for_each_init(
        || (Decoder::default(), Vec::new()),
        |(decoder, out), (path, segment)| {
            let (array, first) = (cache.array(path)?, segment * manifest.segment_rows);
            let (rows, chunk) = (manifest.rows_of_segment(segment), array.spec().chunk_rows);
            array.prefetch(0, first, rows);
            // a few chunks at a time, as a trainer asks for them
            (0..rows).step_by(4 * chunk).try_for_each(|row| {
                array.read(decoder, 0, first + row, (4 * chunk).min(rows - row), out)
            })
        },
    )
}

fn batches(cache: &Cache, batch: usize, threads: usize) -> Result<()> {
    let taps: Vec<String> = cache
        .manifest()
        .view_arrays
        .iter()
        .map(|a| a.path.clone())
        .filter(|path| path.starts_with("taps/"))
        .collect();
    let source =
        Source::Cache(CacheSource::new(cache, &[], false, &taps, Take::default(), 0, true)?);
    let steps = Steps { rows: source.len(), batch, drop_last: false };
    stream(&source, steps, 0..steps.per_epoch(), threads, |batches| {
        (0..steps.per_epoch()).try_for_each(|_| batches.take().map(drop))
    })
}
