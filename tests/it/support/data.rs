//! Data sets made here, so that no binary file stands in the repository.

use super::Random;
use nst_cache::array::{Array, Dtype, Values};
use std::path::Path;

/// Writes an IDX data set of `samples` 28×28 training images of noise, labels 0 to 9 in turn.
pub fn write_idx(folder: &Path, samples: usize) {
    write_idx_with_labels(folder, samples, 10);
}

pub fn write_idx_with_labels(folder: &Path, samples: usize, classes: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let mut random = Random(3);
    let count = u32::try_from(samples).unwrap().to_be_bytes();
    let mut images =
        [&[0, 0, 8, 3], &count[..], &28u32.to_be_bytes(), &28u32.to_be_bytes()].concat();
    images.extend((0..samples * 784).map(|_| random.next() as u8));
    let mut labels = [&[0, 0, 8, 1], &count[..]].concat();
    labels.extend((0..samples).map(|i| (i % classes) as u8));
    std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
}

/// Writes `samples` grey 28×28 PNG images into class folders `a` and `b`.
pub fn write_images(folder: &Path, samples: usize) {
    write_images_of(folder, samples, &["a", "b"]);
}

/// Writes `samples` grey 28×28 PNG images into a folder for each class, in turn.
pub fn write_images_of(folder: &Path, samples: usize, classes: &[&str]) {
    let mut random = Random(5);
    for (index, class) in (0..samples).zip(classes.iter().cycle()) {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        let pixels = (0..784).map(|_| random.next() as u8).collect();
        let image = image::GrayImage::from_raw(28, 28, pixels).unwrap();
        image.save(folder.join(class).join(format!("{index:03}.png"))).unwrap();
    }
}

/// Writes an .npz of these arrays.
pub fn write_npz(path: &Path, arrays: &[(&str, &Array)]) {
    use std::io::Write as _;
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, array) in arrays {
        let shape: Vec<String> = array.shape().iter().map(|n| format!("{n},")).collect();
        let descr = match array.dtype() {
            Dtype::Bool => "|b1",
            Dtype::U8 => "|u1",
            Dtype::I8 => "|i1",
            Dtype::U16 => "<u2",
            Dtype::I16 => "<i2",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::F16 => "<f2",
            Dtype::F64 => "<f8",
            _ => "<f4",
        };
        let mut header = format!(
            "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}",
            shape.concat()
        );
        // magic, version and length take 10 bytes; the header ends in a line feed on a multiple of
        // 64
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive
            .write_all(
                &[b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), array.as_bytes()].concat(),
            )
            .unwrap();
    }
    archive.finish().unwrap();
}

/// Numbers in −0.5…0.5 of a fixed sequence.
pub fn noise(shape: &[usize], seed: u64) -> Array {
    let mut random = Random(seed);
    let values = (0..shape.iter().product()).map(|_| random.unit() as f32 - 0.5).collect();
    Array::new(shape.to_vec(), Values::F32(values)).unwrap()
}

/// Writes noise for a model's input into `noise.npz`, and gives its data spec.
pub fn write_noise(folder: &Path, input: &str, shape: &[usize]) -> String {
    let path = folder.join("noise.npz");
    write_npz(&path, &[(input, &noise(shape, 13))]);
    format!("npz:{}", path.display())
}
