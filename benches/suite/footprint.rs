//! What an idle compute costs: resident memory and processor time of the process, and
//! the size of the program.
//!
//! `FOOTPRINT_SETTLE` and `FOOTPRINT_WINDOW` (seconds) change how long it may settle and
//! how long it is watched. `GLOWPLUG_PRODUCTION_BIN` names the program as the production
//! image has it, built without the feature `storage`; `make bench` builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::stage::compute::{Compute, program};
use crate::stage::number;
use crate::stage::process::{Memory, memory, processor_time, threads};
use crate::stage::storage::Stage;
use crate::stage::table::{Table, cell, verdict};

const MB: f64 = 1e6;

/// At most, in MB and milliseconds a minute.
const MEMORY: f64 = 18.0;
const PROCESSOR: f64 = 100.0;
const SIZE: f64 = 25.0;

/// What one program was seen to take.
struct Footprint {
    name: &'static str,
    size: f64,
    memory: Memory,
    threads: usize,
    processor: f64,
}

async fn measure(stage: &mut Stage, name: &'static str, program: &Path) -> Footprint {
    stage.restore().await;
    let mut compute = Compute::start_with(stage, "compute", program, &[]);
    compute.running().await;
    tokio::time::sleep(Duration::from_secs(number("FOOTPRINT_SETTLE", 15))).await;
    let (before, since) = (processor_time(compute.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(number("FOOTPRINT_WINDOW", 60))).await;
    let used = processor_time(compute.pid()).saturating_sub(before);
    let minutes = since.elapsed().as_secs_f64() / 60.0;
    let footprint = Footprint {
        name,
        size: fs::metadata(program).unwrap().len() as f64 / MB,
        memory: memory(compute.pid()),
        threads: threads(compute.pid()),
        processor: used.as_secs_f64() * 1000.0 / minutes,
    };
    compute.stop();
    fs::remove_dir_all(stage.directory.path().join("compute")).unwrap();
    footprint
}

pub(crate) async fn run() {
    let mut stage = Stage::set().await;
    let mut found = vec![measure(&mut stage, "with storage", &program()).await];
    if let Some(production) = std::env::var_os("GLOWPLUG_PRODUCTION_BIN") {
        let production = PathBuf::from(production);
        found.push(measure(&mut stage, "without storage", &production).await);
    }
    stage.stop().await;
    print(&found);
}

fn print(found: &[Footprint]) {
    let mut table = Table::new(["", "value", "target", "met"]);
    for footprint in found {
        let mut row = |what: &str, value: f64, digits, target: Option<f64>| {
            let met = target.map_or_else(String::new, |target| verdict(value <= target));
            let target = target.map_or_else(String::new, |target| format!("≤ {target}"));
            let name = format!("{what}, {}", footprint.name);
            table.row([name, cell(value, digits), target, met]);
        };
        let memory = footprint.memory;
        row("program, MB", footprint.size, 1, Some(SIZE));
        row("resident, MB", memory.resident as f64 / MB, 1, Some(MEMORY));
        row("  of files, MB", memory.file as f64 / MB, 1, None);
        row("  anonymous, MB", memory.anonymous as f64 / MB, 1, None);
        row("peak, MB", memory.peak as f64 / MB, 1, None);
        row("threads", footprint.threads as f64, 0, None);
        row("processor, ms/min", footprint.processor, 0, Some(PROCESSOR));
    }
    table.print("An idle compute");
}
