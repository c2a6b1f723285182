//! A detector, a segmenter and a reader of text that other people's packages ship, through
//! `inspect`, `extract`, `train`, the export with its parity, and `eval --against`. With
//! `NST_SLOW`; `make test-slow` fetches them and names their folder in `NST_MODELS`.

use crate::support::{Random, Sandbox, is_slow};
use std::path::PathBuf;

struct Case {
    /// Below `NST_MODELS`.
    file: &'static str,
    /// What `inspect` says of the outputs.
    output: &'static str,
    shape: &'static [usize],
    size: &'static str,
    extract: &'static str,
    train: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        file: "nudenet/320n.onnx",
        output: "output0",
        shape: &[22, 525],
        size: "160",
        extract: "",
        train: "--criterion mse:pair=output0>output0 --criterion \
                pkd:pair=/model.15/cv2/act/Mul_output_0>/model.15/cv2/act/Mul_output_0",
    },
    Case {
        file: "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        output: "sigmoid_0.tmp_0",
        shape: &[1, 160, 160],
        size: "160",
        extract: "",
        train: "",
    },
    Case {
        file: "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        output: "softmax_11.tmp_0",
        shape: &[20, 6625],
        size: "48x160",
        extract: "--logits softmax_11.tmp_0 --logits-keep topk:16",
        train: "",
    },
];

/// Writes 24 images of colored blocks.
fn write_photos(sandbox: &Sandbox) {
    let mut random = Random(5);
    std::fs::create_dir(sandbox.join("photos")).unwrap();
    for index in 0..24 {
        let blocks: Vec<[u8; 3]> = (0..12 * 15)
            .map(|_| [0; 3].map(|_: u8| u8::try_from(random.next() % 256).unwrap()))
            .collect();
        let photo = image::RgbImage::from_fn(195, 156, |x, y| {
            image::Rgb(blocks[(y / 13 * 15 + x / 13) as usize])
        });
        photo.save(sandbox.join("photos").join(format!("{index:02}.png"))).unwrap();
    }
}

#[test]
fn models_of_packages_are_distilled() {
    if !is_slow() {
        return;
    }
    let models = std::env::var_os("NST_MODELS").expect("NST_MODELS, which `make test-slow` sets");
    let sandbox = Sandbox::with_runtime();
    write_photos(&sandbox);
    for (number, case) in CASES.iter().enumerate() {
        let Case { file, output, shape, size, extract, train } = *case;
        let model = format!("model{number}.onnx");
        std::fs::copy(PathBuf::from(&models).join(file), sandbox.join(&model)).unwrap();
        let inspected = sandbox.json(&format!("inspect {model} --size {size}"));
        let taps = inspected["taps"].as_array().unwrap();
        assert!(taps.len() > 5 && taps.iter().any(|tap| tap["tensor"] == output), "{file}");
        assert_eq!(inspected["trainable"], true, "{file}");

        let data = format!("--data photos --size {size}");
        let cache = format!("cache{number}");
        sandbox.succeeds(&format!("extract {model} {data} {extract} -o {cache}"));
        // steps from the teacher's own weights disturb them: that is the student
        let line = format!("train {model} --cache {cache} --batch 8 --epochs 1 --lr 1e-3 {train}");
        sandbox.succeeds(&format!("{line} -o disturbed{number}"));
        let student = format!("disturbed{number}/student.onnx");
        let train = |epochs: usize| {
            let line = format!("train {student} --cache {cache} --batch 8 --lr 1e-4 {train}");
            let report = sandbox.json(&format!("{line} --epochs {epochs} -o run{number}-{epochs}"));
            assert_eq!(report["parity"]["samples"], 24, "{file}: {report:#}");
            report["loss"].as_f64().unwrap()
        };
        assert!(train(6) < train(1), "{file}");

        let line = format!("eval run{number}-6/student.onnx {data} --against {model}");
        let found = &sandbox.json(&line)["against"]["outputs"][0];
        assert_eq!(found["student"], output, "{file}: {found:#}");
        assert_eq!(found["shape"], serde_json::json!(shape), "{file}: {found:#}");
        assert!(found["cosine"].as_f64().unwrap() > 0.0, "{file}: {found:#}");
    }
}
