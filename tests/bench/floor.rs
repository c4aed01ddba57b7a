//! 2,000 × fork and wait in a program that does nothing else: the floor under the same loop in a cell.
//! Prints the microseconds of one.

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
}

fn main() {
    let begun = std::time::Instant::now();
    for _ in 0..2000 {
        // SAFETY: the process has one thread, and the child calls nothing but _exit(2).
        match unsafe { fork() } {
            -1 => panic!("no fork: {}", std::io::Error::last_os_error()),
            // SAFETY: it takes a number and does not return.
            0 => unsafe { _exit(0) },
            child => {
                let mut status = 0;
                // SAFETY: the pointer is to a local that lives until the call returns.
                assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
            }
        }
    }
    println!("{}", begun.elapsed().as_secs_f64() / 2000.0 * 1e6);
}
