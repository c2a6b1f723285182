//! The help of the program and of every command.

use crate::support::{Sandbox, snapshot};
use std::fmt::Write as _;

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| {
        // what a name stands for may go on in lines that are indented further
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?;
        name.split_whitespace().next()
    });
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_help_with_examples() {
    let folder = Sandbox::new();
    let help = |command: &str| folder.run(&format!("{command} --help")).expect(0).stdout;
    let program = help("");
    snapshot("help", &folder, &program);
    let names = commands(&program);
    assert!(names.len() >= 11, "{names:?}");
    for name in names {
        let whole = help(&name);
        let mut text = whole.clone();
        for inner in commands(&whole) {
            let inner = format!("{name} {inner}");
            let whole = help(&inner);
            assert!(whole.contains("Examples:\n  nst-cache "), "{inner}:\n{whole}");
            write!(text, "\n$ nst-cache {inner} --help\n{whole}").unwrap();
        }
        assert!(whole.contains("Examples:\n  nst-cache "), "{name}:\n{whole}");
        snapshot(&format!("help_{name}"), &folder, &text);
    }
}
