"""What a cell may do to its own process, to its terminal and to the kernel: the cells of test_abuse.py.

Each runs in the kernel that the ones before it have run in: what is not undone stays done, as in a
notebook. `says` is what the cell's error has to say, None for a cell that must succeed. A cell that
may not do here what it is about prints `refused` and nothing else.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Abuse:
    """One cell, and what becomes of it."""

    name: str
    code: str
    says: str | None = None
    # What its stdout must hold.
    prints: str = ""
    # Whether the notebook's process is another one afterwards, without a cell's being to blame.
    dies_later: bool = False
    # Processes of the cell's that live on.
    leaves: int = 0


PRELUDE = r"""
use nix::libc;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
let kept = vec![1, 2, 3];

fn supervisor() -> i32 {
    let pid = std::os::unix::process::parent_id() as i32;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "supervisor");
    pid
}

fn server() -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", supervisor())).unwrap();
    let line = status.lines().find(|line| line.starts_with("PPid:")).unwrap();
    let pid: i32 = line[5..].trim().parse().unwrap();
    assert!(pid > 1);
    pid
}

fn runtime_dir() -> std::path::PathBuf {
    let line = std::fs::read(format!("/proc/{}/cmdline", supervisor())).unwrap();
    let words: Vec<String> = line.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let at = words.iter().position(|word| word == "--runtime-dir").unwrap();
    words[at + 1].clone().into()
}

fn knock() -> UnixStream { UnixStream::connect(runtime_dir().join("supervisor.sock")).unwrap() }

fn limit(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    assert_eq!(unsafe { libc::setrlimit(what, &limit) }, 0);
}

fn allowed(result: i32) { if result != 0 { print!("refused"); std::io::stdout().flush().unwrap(); panic!("refused") } }

fn in_child(run: impl FnOnce()) -> i32 {
    unsafe {
        let child = libc::fork();
        if child == 0 { run(); libc::_exit(0) }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status
    }
}

fn in_thread(run: impl FnOnce() + Send + 'static) {
    let (begins, begun) = std::sync::mpsc::channel();
    std::thread::spawn(move || { begins.send(()).unwrap(); run() });
    begun.recv().unwrap();
}

fn sleep(milliseconds: u64) { std::thread::sleep(std::time::Duration::from_millis(milliseconds)) }
"""

# The notebook is what it was: its variables, its output.
CHECK = 'println!("out"); eprintln!("err"); kept.iter().sum::<i32>() + 1'

DESCRIPTORS_AND_TERMINAL = [
    Abuse("closes 0 to 255", "for fd in 0..256 { unsafe { libc::close(fd); } }"),
    Abuse("closes all", "unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32); }"),
    Abuse(
        "writes to every descriptor",
        """
        for fd in 3..1024 { unsafe { libc::write(fd, b"garbage".as_ptr().cast(), 7); libc::shutdown(fd, 2); } }
        """,
    ),
    Abuse(
        "puts others in their place",
        """
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in 500..600 { unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd); } }
        """,
    ),
    Abuse("has no file limit left", "limit(libc::RLIMIT_NOFILE, 3);", says="without file descriptors"),
    Abuse(
        "sets the terminal raw",
        """
        unsafe {
            let mut now = std::mem::zeroed();
            libc::tcgetattr(0, &mut now);
            libc::cfmakeraw(&mut now);
            libc::tcsetattr(0, libc::TCSANOW, &now);
            let size: libc::winsize = std::mem::zeroed();
            libc::ioctl(0, libc::TIOCSWINSZ, &size);
            libc::ioctl(0, libc::TIOCEXCL);
        }
        """,
    ),
    Abuse("stops the terminal's output", "unsafe { libc::tcflow(0, libc::TCOOFF); }"),
    Abuse("gives the terminal up", "unsafe { libc::ioctl(0, libc::TIOCNOTTY); }", says="SIGHUP"),
    Abuse(
        "gives the terminal up unharmed",
        """
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN); libc::ioctl(0, libc::TIOCNOTTY); }
        """,
    ),
    Abuse(
        "is in the background",
        """
        unsafe {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            in_child(|| { libc::setpgid(0, 0); libc::tcsetpgrp(0, libc::getpid()); });
        }
        """,
    ),
    Abuse(
        "loses the terminal to a child",
        "in_child(|| unsafe { libc::setsid(); libc::ioctl(0, libc::TIOCSCTTY, 1); });",
    ),
    Abuse(
        "hangs the terminal up",
        "unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN); allowed(libc::syscall(libc::SYS_vhangup) as i32); }",
    ),
    Abuse("leads a session or not", "unsafe { libc::setsid(); libc::setpgid(0, 0); }"),
]

SIGNALS_AND_PANICS = [
    Abuse("handles SIGSEGV", 'extern "C" fn end(_: i32) { unsafe { libc::_exit(9) } }\n'
          "unsafe { libc::signal(libc::SIGSEGV, end as *const () as usize); }"),
    Abuse("ignores every signal", "for s in 1..65 { unsafe { libc::signal(s, libc::SIG_IGN); } }"),
    Abuse(
        "blocks every signal",
        """
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
        }
        """,
    ),
    Abuse(
        "resets every signal",
        """
        unsafe {
            for s in 1..65 { libc::signal(s, libc::SIG_DFL); }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        }
        """,
    ),
    Abuse(
        "has a timer for later",
        """
        unsafe {
            let mut once: libc::itimerval = std::mem::zeroed();
            once.it_value.tv_usec = 300_000;
            libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &once, 0usize);
        }
        """,
        dies_later=True,
    ),
    Abuse(
        "is interrupted all the time",
        """
        extern "C" fn nothing(_: i32) {}
        unsafe {
            libc::signal(libc::SIGALRM, nothing as *const () as usize);
            let often = libc::timeval { tv_sec: 0, tv_usec: 300 };
            let often = libc::itimerval { it_interval: often, it_value: often };
            libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &often, 0usize);
        }
        """,
    ),
    Abuse(
        "is left alone again",
        """
        unsafe {
            let never: libc::itimerval = std::mem::zeroed();
            libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &never, 0usize);
        }
        """,
    ),
    Abuse("sets a panic hook that exits", "std::panic::set_hook(Box::new(|_| std::process::exit(5)));"),
    Abuse("panics under it", 'panic!("once");', says=r"exit\(5\)"),
    Abuse("sets a panic hook that panics", 'std::panic::set_hook(Box::new(|_| panic!("in the hook")));'),
    Abuse("panics under that", 'panic!("once");', says="SIGABRT"),
    Abuse("takes the hook away", "let _ = std::panic::take_hook();"),
    Abuse("panics across C", 'extern "C" fn across() { panic!("across"); } across();', says="SIGABRT"),
    Abuse(
        "panics through C",
        """
        extern "C-unwind" fn compare(_: *const libc::c_void, _: *const libc::c_void) -> i32 { panic!("in qsort") }
        unsafe extern "C-unwind" {
            fn qsort(base: *mut libc::c_void, n: usize, size: usize,
                compare: extern "C-unwind" fn(*const libc::c_void, *const libc::c_void) -> i32);
        }
        unsafe { qsort([3u8, 1, 2].as_mut_ptr().cast(), 3, 1, compare) }
        """,
        says="in qsort",
    ),
    Abuse(
        "panics while it panics",
        'struct P; impl Drop for P { fn drop(&mut self) { panic!("second") } } let _p = P; panic!("first");',
        says="SIGABRT",
    ),
    Abuse(
        "panics with a payload that panics",
        'struct Q; impl Drop for Q { fn drop(&mut self) { panic!("in drop") } } std::panic::panic_any(Q);',
        says="SIGABRT",
    ),
    Abuse("sends SIGTERM to its group", "unsafe { libc::kill(0, libc::SIGTERM); }", says="SIGTERM"),
]

ENVIRONMENT_AND_LIMITS = [
    Abuse(
        "is in a directory that is gone",
        """
        let gone = std::env::temp_dir().join(format!("gone-{}", std::process::id()));
        std::fs::create_dir(&gone).unwrap();
        std::env::set_current_dir(&gone).unwrap();
        std::fs::remove_dir(&gone).unwrap();
        """,
    ),
    Abuse("has a shell there", "!echo shell; pwd", prints="shell\n"),
    Abuse("comes back", 'std::env::set_current_dir("/").unwrap();'),
    Abuse(
        "spoils its environment",
        """
        for name in ["TMPDIR", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTFLAGS"] {
            unsafe { std::env::set_var(name, "/nonexistent"); }
        }
        unsafe { std::env::set_var("PATH", ""); }
        """,
    ),
    Abuse("has a shell without a PATH", "!echo shell", prints="shell\n"),
    Abuse("clears its environment", "unsafe { libc::clearenv(); }"),
    Abuse("has a shell without an environment", "!echo shell", prints="shell\n"),
    Abuse("lets nobody read its files", "unsafe { libc::umask(0o777); }"),
    Abuse("has no file size, core or locks", "for what in [libc::RLIMIT_FSIZE, libc::RLIMIT_CORE, libc::RLIMIT_MEMLOCK, "
          "libc::RLIMIT_SIGPENDING, libc::RLIMIT_MSGQUEUE, libc::RLIMIT_LOCKS] { limit(what, 0); }"),
    Abuse("has no memory left", "limit(libc::RLIMIT_AS, 1);", says="without memory"),
    Abuse("has no data left", "limit(libc::RLIMIT_DATA, 1);", says="without memory"),
    Abuse(
        "uses its processor time up",
        "limit(libc::RLIMIT_CPU, 1); loop { std::hint::spin_loop() }",
        says="SIGXCPU|SIGKILL",
    ),
    Abuse("is another group", "unsafe { allowed(libc::setgid(65534)); }"),
    Abuse("is nobody", "unsafe { allowed(libc::setuid(65534)); }", says="unable to open the kernel's files"),
    Abuse(
        "is another user without processes",
        """
        unsafe {
            allowed(libc::seteuid(65534));
            limit(libc::RLIMIT_NPROC, 0);
        }
        """,
        says="unable to",
    ),
    Abuse("has another root", 'unsafe { allowed(libc::chroot(c"/proc".as_ptr())); }', says="unable to open the kernel's files"),
    Abuse(
        "has other mounts",
        """
        unsafe {
            allowed(libc::unshare(libc::CLONE_NEWNS));
            let none = std::ptr::null();
            allowed(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()));
            let over = std::ffi::CString::new(runtime_dir().into_os_string().into_encoded_bytes()).unwrap();
            allowed(libc::mount(c"none".as_ptr(), over.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()));
        }
        """,
        says="unable to open the kernel's files",
    ),
    Abuse("has another pid namespace", "unsafe { allowed(libc::unshare(libc::CLONE_NEWPID)); }", says="pid namespace"),
    Abuse("has another user namespace", "unsafe { allowed(libc::unshare(libc::CLONE_NEWUSER)); }"),
    Abuse(
        "is hard to see",
        """
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, 0);
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
            libc::prctl(libc::PR_SET_NAME, c"supervisor".as_ptr());
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        """,
    ),
    Abuse(
        "has an orphan of its own and crashes",
        """
        in_child(|| unsafe { if libc::fork() == 0 { libc::setsid(); loop { libc::pause(); } } });
        unsafe { *(8 as *mut i32) = 1 };
        """,
        says="SIGSEGV",
    ),
    Abuse("locks its memory", "unsafe { libc::mlockall(3); libc::munlockall(); }"),
    Abuse(
        "is nice",
        """
        unsafe {
            let mut one = std::mem::zeroed();
            libc::CPU_SET(0, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
            libc::nice(19);
        }
        """,
    ),
]

FILTER = """
unsafe fn forbid(number: i64, answer: u32) {{
    let filter = [
        libc::sock_filter {{ code: 0x20, jt: 0, jf: 0, k: 0 }},
        libc::sock_filter {{ code: 0x15, jt: 0, jf: 1, k: number as u32 }},
        libc::sock_filter {{ code: 0x06, jt: 0, jf: 0, k: answer }},
        libc::sock_filter {{ code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 }},
    ];
    let program = libc::sock_fprog {{ len: 4, filter: filter.as_ptr().cast_mut() }};
    unsafe {{
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        allowed(libc::prctl(libc::PR_SET_SECCOMP, 2, &program));
    }}
}}
unsafe {{ forbid({number}, {answer}) }}
"""

MEMORY_AND_ENDS = [
    Abuse("forbids itself to connect", FILTER.format(number="libc::SYS_connect", answer="0x8000_0000"), says="SIGSYS"),
    Abuse(
        "forbids itself to connect quietly",
        FILTER.format(number="libc::SYS_connect", answer="0x5_0001"),
        says="unable to connect to the kernel",
    ),
    Abuse(
        "forbids itself to open",
        FILTER.format(number="libc::SYS_openat", answer="0x5_0001"),
        says="unable to open the kernel's files",
    ),
    Abuse("allows itself nothing", "unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1); }", says="SIGKILL"),
    Abuse(
        "unmaps its stack",
        "unsafe { let x = 0u8; libc::munmap(((&raw const x as usize & !0xfff) - 0x10000) as *mut _, 0x40000); }",
        says="SIGSEGV",
    ),
    Abuse(
        "unmaps the C library",
        "unsafe { libc::munmap((libc::write as *const () as usize & !0xfff) as *mut _, 0x10000); }",
        says="SIGSEGV",
    ),
    Abuse(
        "spoils its heap",
        "unsafe { libc::free(kept.as_ptr().cast_mut().add(1).cast()) }",
        says="SIGABRT|SIGSEGV",
    ),
    Abuse(
        "ends its main thread",
        'unsafe extern "C" { fn pthread_exit(value: *mut libc::c_void) -> !; } unsafe { pthread_exit(std::ptr::null_mut()) }',
        says="SIGABRT",
    ),
    Abuse(
        "ends its main thread beside another",
        "std::thread::spawn(|| sleep(100)); unsafe { libc::syscall(libc::SYS_exit, 3); }",
        says=r"exit\(\d\)",
    ),
    Abuse("becomes true", 'unsafe { libc::execl(c"/bin/true".as_ptr(), c"true".as_ptr(), std::ptr::null::<libc::c_char>()); }',
          says=r"exit\(0\)"),
    Abuse("becomes cat", 'unsafe { libc::execl(c"/bin/cat".as_ptr(), c"cat".as_ptr(), std::ptr::null::<libc::c_char>()); }',
          says="input|exit"),
    Abuse(
        "becomes another program from a thread",
        "let _ = std::thread::spawn(|| unsafe { "
        'libc::execl(c"/bin/false".as_ptr(), c"false".as_ptr(), std::ptr::null::<libc::c_char>()); }).join();',
        says=r"exit\(1\)",
    ),
    Abuse("vforks", "unsafe { let p = libc::vfork(); if p == 0 { libc::_exit(3) } let mut s = 0; libc::waitpid(p, &mut s, 0); }"),
    Abuse("becomes a daemon", "unsafe { libc::daemon(0, 0); }", says=r"exit\(0\)"),
    Abuse("wants 100 GB", "let all: Vec<u8> = vec![0; 100 << 30]; all.len()", says="SIGABRT|SIGKILL|imit"),
    Abuse(
        "has no end of stack",
        "fn f(n: u64) -> u64 { if n == 0 { 0 } else { 1 + f(std::hint::black_box(n) + 1) } } f(1)",
        says="stack overflow",
    ),
    Abuse(
        "jumps",
        'unsafe extern "C" { fn _setjmp(b: *mut u64) -> i32; fn longjmp(b: *mut u64, v: i32) -> !; }\n'
        "unsafe { let mut b = [0u64; 64]; if _setjmp(b.as_mut_ptr()) == 0 { longjmp(b.as_mut_ptr(), 1) } }",
    ),
    Abuse("loads libraries", 'unsafe { libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL); }'),
    Abuse("has a child that aborts at its exit", 'extern "C" fn end() { unsafe { libc::abort() } }\n'
          "if unsafe { libc::fork() } == 0 { unsafe { libc::atexit(end); } } else { unsafe { libc::wait(&mut 0); } }"),
    Abuse("hangs at its exit", 'extern "C" fn hang() { unsafe { libc::write(1, c"bye".as_ptr().cast(), 3); } }\n'
          "unsafe { libc::atexit(hang); } std::process::exit(4);", says=r"exit\(4\)", prints="bye"),
    Abuse(
        "keeps a variable that exits",
        "struct Bomb; impl Drop for Bomb { fn drop(&mut self) { std::process::exit(6) } } let bomb = Bomb;",
    ),
    Abuse("drops it", "drop(bomb);", says=r"exit\(6\)"),
]

THREADS = [
    Abuse("aborts in a thread", "let _ = std::thread::spawn(|| std::process::abort()).join();", says="SIGABRT"),
    Abuse("exits in a thread", "let _ = std::thread::spawn(|| std::process::exit(4)).join();", says=r"exit\(4\)"),
    Abuse(
        "has a thread that crashes later",
        "in_thread(|| { sleep(300); unsafe { *(8 as *mut i32) = 1 } });",
        dies_later=True,
    ),
    Abuse("has a thread that exits later", "in_thread(|| { sleep(300); std::process::exit(0) });", dies_later=True),
    Abuse("forks in a thread", "std::thread::spawn(|| unsafe { libc::fork() }).join().unwrap(); unsafe { libc::wait(&mut 0); }"),
    Abuse(
        "forks beside allocating threads",
        """
        use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3).map(|_| { let stop = stop.clone(); std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) { drop(vec![0u8; 100_000]); } }) }).collect();
        for _ in 0..30 { assert_eq!(in_child(|| drop(vec![1u8; 1000])), 0); }
        stop.store(true, Ordering::Relaxed);
        for thread in threads { thread.join().unwrap(); }
        """,
    ),
    Abuse(
        "forks while a thread prints",
        """
        use std::sync::mpsc::channel;
        let ((held, is_held), (release, is_released)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            let _lock = std::io::stdout().lock();
            held.send(()).unwrap();
            let _ = is_released.recv();
        });
        is_held.recv().unwrap();
        // The child comes to the cell's end, where its output is flushed.
        let child = unsafe { libc::fork() };
        if child > 0 {
            let mut status = 1;
            unsafe { libc::waitpid(child, &mut status, 0); }
            assert_eq!(status, 0);
            drop(release);
            thread.join().unwrap();
        }
        """,
    ),
]

KERNEL = [
    Abuse(
        "looks for the kernel's descriptors",
        """
        let mut open = 0;
        for pid in [supervisor(), server()] {
            for fd in 0..100 {
                let file = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/{fd}"));
                open += file.is_ok() as i32;
            }
            let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
            for fd in 0..100 {
                let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle, fd, 0) } as i32;
                open += (copy >= 0) as i32;
            }
            open += std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).is_ok() as i32;
        }
        print!("{open} open");
        """,
        prints="0 open",
    ),
    Abuse(
        "traces the kernel",
        """
        for pid in [supervisor(), server()] {
            for how in [libc::PTRACE_SEIZE, libc::PTRACE_ATTACH] {
                print!("{} ", unsafe { libc::ptrace(how, pid, 0usize, 0usize) });
            }
        }
        """,
        prints="-1 -1 -1 -1 ",
    ),
    Abuse(
        "sends every signal to its parent",
        "for s in (1..65).filter(|s| *s != libc::SIGKILL) { unsafe { libc::kill(supervisor(), s); } }",
    ),
    Abuse(
        "sends every signal to its grandparent",
        "for s in (1..65).filter(|s| *s != libc::SIGKILL) { unsafe { libc::kill(server(), s); } sleep(1) }",
    ),
    Abuse("speaks nonsense", 'knock().write_all(b"\\x05\\0\\0\\0nonsense").unwrap(); sleep(5000);', says="SIGKILL"),
    Abuse("says half a word", 'let mut half = knock(); half.write_all(b"\\x05\\0").unwrap(); std::mem::forget(half);'),
    Abuse(
        "speaks for the worker",
        r"""
        let report = br#"{"Ready":{"ended":[{"Returned":{"panic":null,"error":null,"displays":[["text/plain","a lie"]],
            "lost_variables":[],"shell":null}},0],"checkpoint":null}}"#;
        let mut stream = knock();
        stream.write_all(&(report.len() as u32).to_le_bytes()).unwrap();
        stream.write_all(report).unwrap();
        sleep(5000);
        """,
        says="SIGKILL",
    ),
    Abuse(
        "says what is much too long",
        r"""
        let mut stream = knock();
        stream.write_all(b"\xff\xff\xff\x0f").unwrap();
        while stream.write_all(&[b'['; 65536]).is_ok() {}
        sleep(5000);
        """,
        says="SIGKILL",
    ),
    Abuse(
        "has a child that speaks nonsense",
        r"""
        in_child(|| for _ in 0..300 { let _ = knock().write_all(b"\x05\0\0\0nonsense"); });
        """,
    ),
]
