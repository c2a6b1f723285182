//! `train --sakd exact` on the demo's teacher: runs its stages, exports a student like any other,
//! and refuses another teacher's file.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, Sandbox, committed};

use serde_json::Value;

#[test]
fn the_exact_mode_runs_from_a_cache_and_its_teacher() {
    let root = &Sandbox::with_runtime();
    let folder = root;
    std::fs::copy(committed("models/teacher.onnx"), folder.join("teacher.onnx")).unwrap();
    folder.succeeds("extract teacher.onnx --data fashion-mnist --limit 48 -o cache");
    support::write_idx(&folder.join("data"), 40);
    let shared = "train resnet8 --cache cache --epochs 2 --batch 16 --criterion kd --criterion \
                  nst-poly --test idx:data:train";

    let exact = format!("{shared} --sakd exact --sakd-teacher teacher.onnx -o exact --json");
    let output = folder.run(&exact).expect(0);
    let report = output.json();
    assert!(output.stderr.contains("the stages of teacher.onnx run at every step"));
    assert_eq!(report["settings"]["recipe"]["sakd"]["mode"], "exact");
    // where the file lies decides nothing: the same run from elsewhere is the one that has finished
    assert!(!report.to_string().contains("teacher.onnx"), "{report}");
    std::fs::rename(folder.join("teacher.onnx"), folder.join("moved.onnx")).unwrap();
    let again = folder.run(&exact.replace("teacher.onnx", "moved.onnx"));
    assert!(again.stderr.contains("finished already"), "{again:?}");

    let metrics = std::fs::read_to_string(folder.join("exact/metrics.jsonl")).unwrap();
    let epoch: Value = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .rfind(|r| !r["spots"].is_null())
        .unwrap();
    let spots: Vec<&str> = epoch["spots"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(spots, ["layer1", "layer2", "layer3", "logits"]);

    for (flags, message, hint) in [
        ("--sakd exact", "sakd exact: expected the teacher's file, found none", "--sakd-teacher"),
        (
            "--sakd --sakd-teacher moved.onnx",
            "sakd.teacher: expected mode \"exact\"",
            "--sakd exact",
        ),
        (
            "--sakd exact --sakd-teacher exact/student.onnx",
            "expected the model that made this cache (teacher.onnx, sha256",
            "--sakd-teacher",
        ),
        ("--sakd exact --sakd-teacher none.onnx", "none.onnx: cannot be read", ""),
        (
            "--sakd exact --sakd-teacher moved.onnx --criterion \
             at:pair=layer1>layer1,pair=layer3>layer3.0.bn2",
            "found layer3.0.downsample around it, read by node layer3.0.add (Add)",
            "cached mode",
        ),
    ] {
        let text = folder.run(&format!("{shared} -o refused {flags}")).expect(2).stderr;
        assert!(
            text.contains(message) && text.contains(hint) && text.lines().count() <= 6,
            "{flags}: {text}"
        );
        assert!(!folder.join("refused").exists(), "{flags}");
    }
}
