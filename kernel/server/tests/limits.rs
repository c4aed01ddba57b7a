//! Limits as a person meets them: what a cell says, what it costs the notebook (nothing), and that the
//! kernel answers all the while.
//!
//! Every bomb here has a bound of its own besides: a limit that fails must not cost the machine.

mod client;

use std::time::{Duration, Instant};

use client::{Channel, Kernel, Options, Run, children, data, eventually, start};

/// Contract: a kernel answers other requests while a cell does its worst.
const TIME_TO_ANSWER: Duration = Duration::from_secs(1);

/// Contract: and it ends that cell within this time.
const TIME_TO_END: Duration = Duration::from_secs(5);

/// Forks without end, but for four hundred births in all that are counted in shared memory.
const BOMB: &str = "use std::sync::atomic::{AtomicI32, Ordering};\n\
    println!(\"lit\");\n\
    let births = unsafe { &*(nix::sys::mman::mmap_anonymous(None, std::num::NonZeroUsize::new(4096).unwrap(), \
        nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE, \
        nix::sys::mman::MapFlags::MAP_SHARED).unwrap().as_ptr() as *const AtomicI32) };\n\
    loop {\n    \
        if births.fetch_add(1, Ordering::SeqCst) >= 400 {\n        \
            births.fetch_sub(1, Ordering::SeqCst);\n        \
            std::thread::sleep(std::time::Duration::from_millis(5));\n    \
        } else if unsafe { nix::unistd::fork() }.is_err() {\n        \
            births.fetch_sub(1, Ordering::SeqCst);\n    \
        }\n}";

fn start_with(variables: &[(&str, &str)]) -> Kernel {
    Kernel::start_with(|command| {
        command.env("FORKLAB_DATA", data()).envs(variables.iter().copied());
    })
}

#[track_caller]
fn reached(run: &Run, which: &str, help: &str) {
    let error = run.error();
    assert_eq!(error["ename"], "LimitReached", "{error}");
    let evalue = error["evalue"].as_str().unwrap_or_default();
    assert!(evalue.contains(which), "{evalue}");
    let traceback = error["traceback"].to_string();
    assert!(traceback.contains(help), "{traceback}");
}

/// Runs a cell that is to be ended, and asks the kernel all the while.
#[track_caller]
fn ended_while_answering(kernel: &mut Kernel, code: &str) -> Run {
    let id = kernel.client.send_execute(code, &Options::default());
    // Compiling it is no part of what it does.
    kernel.client.wait_for("its first words", |m| m.parent_id() == id && m.msg_type() == "stream");
    let begun = Instant::now();
    let (mut answers, mut over) = (0, None);
    while over.is_none() {
        let asked = Instant::now();
        kernel.client.kernel_info(Channel::Control);
        assert!(asked.elapsed() < TIME_TO_ANSWER, "the answer took {:?}", asked.elapsed());
        answers += 1;
        over = kernel.client.take_if(|m| m.parent_id() == id && m.msg_type() == "execute_reply");
        // Nothing depends on the length: it only keeps us from being a flood ourselves.
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed();
    println!("{answers} answers in {took:?}");
    assert!(took < TIME_TO_END, "{took:?}");
    kernel.client.put_back(over.expect("the loop ends with a reply"));
    kernel.client.finish(&id, &Options::default())
}

#[test]
fn a_cell_is_ended_at_its_own_limit_and_told_how_to_raise_it() {
    let mut kernel = start();
    kernel.client.execute("let kept = 7;");
    let run = kernel.client.execute("%%limit time=200ms\nloop { std::hint::spin_loop() }");
    reached(&run, "the cell's limit of 200 ms of time was reached", "%%limit time=");
    reached(&run, "the state before the cell was restored", "");
    let run = kernel.client.execute("%%limit cpu=300ms\nloop { std::hint::spin_loop() }");
    reached(&run, "300 ms of processor time", "%%limit cpu=");
    // 2 GB at the most.
    let hog = "let mut all = Vec::new(); for n in 0..2048 { all.push(vec![n as u8; 1 << 20]); } all.len()";
    let run = kernel.client.execute(&format!("%%limit mem=256M\n{hog}"));
    reached(&run, "256 MiB of memory", "%%limit mem=512M");
    let run = kernel.client.execute(
        "%%limit files=20\n(0..40).map_while(|_| std::fs::File::open(\"/dev/null\").ok()).collect::<Vec<_>>().len()",
    );
    assert!(run.result().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < 20), "{:?}", run.published);
    let run = kernel
        .client
        .execute("(0..40).map_while(|_| std::fs::File::open(\"/dev/null\").ok()).collect::<Vec<_>>().len()");
    assert_eq!(run.result(), Some("40"), "the next cell has its own");
    assert_eq!(kernel.client.execute("%%limit time=60s procs=100\nkept").result(), Some("7"));
    let run = kernel.client.execute("%%limit time=soon\nkept");
    assert_eq!(run.error()["ename"], "MagicError");
    let run = kernel.client.execute("%%limit procs=1000\nkept");
    let evalue = run.error()["evalue"].as_str().unwrap_or_default().to_owned();
    assert!(evalue.contains("above this server's 256") && evalue.contains("FORKLAB_LIMIT_PROCS=1000"), "{evalue}");
}

#[test]
fn output_is_limited_to_the_byte_and_left_over_floods_end() {
    let mut kernel = start();
    let run = kernel.client.execute("%%limit output=100K\nloop { println!(\"0123456789abcde\") }");
    reached(&run, "100 KiB of output", "%%limit output=");
    assert_eq!(run.stdout().len(), 100 << 10);
    let flood = "!printf 'begun\\n'; (setsid sh -c 'trap \"\" HUP; sleep 0.3; yes') &";
    let run = kernel.client.execute(&format!("%%limit output=64K\n{flood}"));
    assert_eq!(run.status(), "ok");
    let said = |late: &[client::Message]| {
        late.iter().any(|m| m.content["text"].as_str().is_some_and(|text| text.contains("[forklab: ")))
    };
    let late = kernel.client.late_output(&run.id, said);
    let text: String = late.iter().filter_map(|m| m.content["text"].as_str()).collect();
    assert!(text.contains("64 KiB of output was reached"), "{}", &text[text.len() - 300..]);
    assert!(kernel.client.execute("%ps").stdout().contains("no processes"));
}

#[test]
fn a_fork_bomb_costs_neither_the_notebook_nor_another_one() {
    let mut kernel = start_with(&[("FORKLAB_LIMIT_PROCS", "80")]);
    let mut other = start();
    kernel.client.execute("let kept = 7;");
    other.client.execute("let kept = 8;");
    let run = std::thread::scope(|scope| {
        let calm = scope.spawn(|| {
            for _ in 0..3 {
                assert_eq!(other.client.execute("kept + 1").result(), Some("9"));
            }
        });
        let run = ended_while_answering(&mut kernel, BOMB);
        calm.join().expect("the other kernel works");
        run
    });
    reached(&run, "80 processes", "FORKLAB_LIMIT_PROCS=160");
    assert!(kernel.client.execute("%ps").stdout().contains("no processes"));
    assert_eq!(kernel.client.execute("kept").result(), Some("7"));
}

#[test]
fn the_servers_limits_come_from_a_file_and_variables() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("limits.toml");
    std::fs::write(&file, "[cell]\ntime = \"300ms\"\n").expect("it can be written");
    let path = file.to_str().expect("a path in UTF-8").to_owned();
    let mut kernel = start_with(&[("FORKLAB_LIMITS_FILE", &path), ("FORKLAB_LIMIT_OUTPUT", "1K")]);
    reached(&kernel.client.execute("!sleep 1000"), "300 ms of time", &path);
    let run = kernel.client.execute("!head -c 5000 /dev/zero | tr '\\0' x");
    reached(&run, "1 KiB of output", "FORKLAB_LIMIT_OUTPUT=2K");
    assert_eq!(run.stdout().len(), 1024);
    std::fs::write(&file, "[cell]\ntmie = 3\n").expect("it can be written");
    let mut kernel = start_with(&[("FORKLAB_LIMITS_FILE", &path)]);
    let run = kernel.client.execute("!echo x");
    let evalue = run.error()["evalue"].as_str().unwrap_or_default().to_owned();
    assert!(evalue.contains("line 2") && evalue.contains("did you mean `time`?"), "{evalue}");
}

#[test]
fn a_stopped_supervisor_goes_on() {
    let mut kernel = start();
    let supervisor = children(kernel.process.id(), "supervisor")[0];
    kernel.client.execute("let kept = 7;");
    let run = kernel.client.execute(&format!("!kill -STOP {supervisor}; echo sent"));
    assert_eq!(run.stdout(), "sent\n");
    assert_eq!(kernel.client.execute("kept").result(), Some("7"));
    eventually("it runs", || {
        std::fs::read_to_string(format!("/proc/{supervisor}/stat")).is_ok_and(|stat| !stat.contains(") T "))
    });
}
