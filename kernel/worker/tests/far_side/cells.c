/* Victims: what cells do to themselves and to each other, each as a function that the worker calls.
 * The variable store is a pointer to a counter, made by the first cell that wants it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cells.h"

struct host *FORKLAB_HOST;
const unsigned FORKLAB_ORIGINS[] = {100, 10, 7, 1, 0};
const size_t FORKLAB_ORIGINS_LEN = 1;

#define TEXT(s) s, strlen(s)

static void seen(const char *message) {
    FORKLAB_HOST->panic_seen(TEXT("src/lib.rs"), 101, 5, TEXT(message), TEXT("main"), 0);
}

CELL(nothing) { return store; }
CELL(count) {
    int *n = store ? store : calloc(1, sizeof *n);
    number(++*n);
    return n;
}
CELL(count_then_crash) { ++*(int *)store; *(volatile int *)0 = 1; return store; }
CELL(hello) { say("partial"); if (write(2, "oops\n", 5) < 0) abort(); printf("buffered"); return store; }
CELL(own_pid) { number(getpid()); return store; }
CELL(first_descriptor) { int fd = open("/dev/zero", O_RDONLY); number(fd); close(fd); return store; }
CELL(environment) { say(getenv("RUST_BACKTRACE") ? "backtrace\n" : "quiet\n"); return store; }

CELL(child_returns) {
    pid_t child = fork();
    if (!child) { say("child\n"); return store; }
    int status; waitpid(child, &status, 0);
    number(child); number(status);
    return store;
}
CELL(child_panics) {
    pid_t child = fork();
    if (!child) { seen("boom"); FORKLAB_HOST->panicked(TEXT("boom")); return store; }
    int status; waitpid(child, &status, 0);
    number(child); number(WEXITSTATUS(status));
    return store;
}
CELL(panics) { seen("boom"); FORKLAB_HOST->panicked(TEXT("boom")); return store; }
CELL(catches_a_panic) { seen("caught"); return store; }
CELL(catches_a_panic_and_exits) { seen("caught"); if (!fork()) exit(0); wait(0); exit(3); }
CELL(fails) { FORKLAB_HOST->failed(TEXT("no such thing")); return store; }
CELL(shows) {
    FORKLAB_HOST->display(TEXT("text/plain"), TEXT("one"));
    FORKLAB_HOST->display_begin();
    say("noise\nEVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_END_CONTENT\n");
    FORKLAB_HOST->display_end();
    say("EVCXR_BEGIN_CONTENT text/html\n");
    return store;
}
static char *many(size_t len) {
    char *text = malloc(len);
    memset(text, 'x', len);
    return text;
}
CELL(shows_much) {
    size_t len = 7 << 20;
    FORKLAB_HOST->display(TEXT("image/svg+xml"), many(len), len);
    return store;
}
/* Longer than a frame may be. */
CELL(shows_too_much) {
    size_t len = 300 << 20;
    char *text = many(len);
    FORKLAB_HOST->display(TEXT("image/svg+xml"), text, len);
    FORKLAB_HOST->display(TEXT("text/plain"), text, len);
    FORKLAB_HOST->display(TEXT("text/html"), text, len);
    FORKLAB_HOST->failed(text, len);
    FORKLAB_HOST->panicked(text, len);
    free(text);
    return store;
}
static void *panicking_thread(void *unused) {
    FORKLAB_HOST->panic_seen(TEXT("/other.rs"), 3, 4, TEXT("in a thread"), TEXT("helper"), 0);
    return unused;
}
CELL(thread_panics) {
    pthread_t thread;
    pthread_create(&thread, 0, panicking_thread, 0);
    pthread_join(thread, 0);
    return store;
}

/* Speaks to the supervisor as the worker, and says what no worker says after a task. */
CELL(speaks_out_of_turn) {
    const char *message = "{\"Ready\":{\"ended\":null,\"checkpoint\":null}}";
    unsigned len = strlen(message);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", getenv("FORKLAB_TEST_SOCKET"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) abort();
    if (write(fd, &len, 4) < 0 || write(fd, message, len) < 0) abort();
    for (;;) pause();
}
CELL(exits) { say("last words"); exit(3); }
CELL(execs) { execlp("echo", "echo", "another program", (char *)0); abort(); }
CELL(crashes) { *(volatile int *)0 = 1; return store; }
CELL(kills_itself) { kill(getpid(), SIGKILL); return store; }
CELL(kills_its_group) { kill(0, SIGKILL); return store; }
CELL(killed_by_its_child) {
    pid_t parent = getpid();
    if (!fork()) { kill(parent, SIGTERM); _exit(0); }
    for (;;) pause();
}
/* A child that outlives the cell and ends the worker when a line comes. */
CELL(killed_later) {
    pid_t parent = getpid();
    if (!fork()) { char b[9]; if (read(0, b, 9) > 0) kill(parent, SIGKILL); _exit(0); }
    return store;
}

static void linger(void) {
    if (!fork()) {
        setsid();
        pid_t orphan = fork();
        if (!orphan) for (;;) pause();
        number(orphan);
        _exit(0);
    }
}
CELL(leaves_an_orphan) { linger(); wait(0); return store; }
CELL(orphan_then_crash) { linger(); wait(0); raise(SIGABRT); return store; }
/* A grandchild in another session that writes when the person types. */
CELL(late_writer) {
    if (!fork()) {
        setsid();
        if (!fork()) { char b[9]; ssize_t n = read(0, b, 9); number(n); number(getpid()); _exit(0); }
        _exit(0);
    }
    wait(0);
    return store;
}
/* A left-over in another session that reads a line, then has a child of its own read one. */
CELL(late_family) {
    if (!fork()) {
        char b[9];
        setsid();
        if (read(0, b, 9) > 0) { if (!fork()) { if (read(0, b, 9) < 0) abort(); _exit(0); } wait(0); }
        _exit(0);
    }
    return store;
}
CELL(waits_for_all) { while (wait(0) > 0) ; number(errno == ECHILD); return store; }
/* Deaf to what the closing of its terminal sends. */
CELL(spins) { signal(SIGHUP, SIG_IGN); say("spinning\n"); for (;;) ; }
CELL(spins_with_company) {
    for (int i = 0; i < 3; i++) linger();
    if (!fork()) { raise(SIGSTOP); _exit(0); }
    if (!fork()) for (int i = 0; ; i++) { if (i < 150 && !fork()) pause(); usleep(1000); }
    if (!fork()) { signal(SIGTERM, SIG_IGN); signal(SIGINT, SIG_IGN); for (;;) pause(); }
    say("spinning\n");
    for (;;) ;
}

static void echo_line(void) {
    char b[100]; ssize_t n = read(0, b, sizeof b);
    say("["); if (n > 0 && write(1, b, n) < 0) abort(); say("]\n");
}
CELL(reads) { echo_line(); return store; }
CELL(reads_twice) { echo_line(); echo_line(); return store; }
CELL(two_readers) {
    for (int i = 0; i < 2; i++) if (!fork()) { echo_line(); _exit(0); }
    while (wait(0) > 0) ;
    return store;
}
CELL(polls) { struct pollfd p = {0, POLLIN, 0}; poll(&p, 1, -1); echo_line(); return store; }
static void *read_in_thread(void *unused) { echo_line(); return unused; }
CELL(thread_reads) {
    pthread_t thread;
    pthread_create(&thread, 0, read_in_thread, 0);
    pthread_join(thread, 0);
    return store;
}
CELL(reader_dies) {
    pid_t child = fork();
    if (!child) { echo_line(); _exit(0); }
    usleep(200000); /* the victim's time, not the test's: the test waits for the message */
    kill(child, SIGKILL); wait(0);
    return store;
}
CELL(uses_up_descriptors) {
    int n = 0;
    while (dup(0) >= 0) n++;
    number(n > 0);
    return store;
}
CELL(lowers_its_limit) {
    struct rlimit l = {5, 4096};
    setrlimit(RLIMIT_NOFILE, &l);
    return store;
}
CELL(closes_everything) { for (int fd = 0; fd < 4096; fd++) close(fd); return store; }
CELL(forks_much) {
    for (int i = 0; i < 200; i++) { pid_t p = fork(); if (!p) return store; waitpid(p, 0, 0); }
    return store;
}

/* A pipe that lives from cell to cell. */
static int ends[2];
static int pair[2];
CELL(makes_a_pipe) {
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
    return store;
}
CELL(talks_through_the_pair) {
    char b[9];
    if (write(pair[0], "there", 5) < 0) abort();
    number(read(pair[1], b, 9));
    if (write(pair[1], "back", 4) < 0) abort();
    number(read(pair[0], b, 9));
    close(pair[1]);
    number(read(pair[0], b, 9));
    return store;
}
CELL(reads_the_pipe_to_its_end) {
    if (!fork()) { if (write(ends[1], "through", 7) < 0) abort(); _exit(0); }
    close(ends[1]);
    char b[9]; ssize_t n; long total = 0;
    while ((n = read(ends[0], b, 9)) > 0) total += n;
    number(total);
    return store;
}
CELL(writes_and_reads_the_pipe) {
    char b[9];
    if (write(ends[1], "again", 5) < 0) abort();
    number(read(ends[0], b, 9));
    return store;
}

/* Orphans that signal the parent they find. */
CELL(orphans_signal_their_parent) {
    int signals[] = {SIGUSR1, SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGRTMIN};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
        if (!fork()) {
            pid_t middle = getpid();
            if (!fork()) { while (getppid() == middle) ; kill(getppid(), signals[i]); say("sent\n"); _exit(0); }
            _exit(0);
        }
        wait(0);
    }
    return store;
}
/* Processes that fork and leave, again and again: gone before one can aim. Not more than 200 in all,
 * so each stays for a moment, or they would be over before anybody has looked. */
CELL(comets) {
    int *left = mmap(0, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *left = 190;
    for (int i = 0; i < 8; i++) {
        if (!fork()) { setsid(); while (__sync_sub_and_fetch(left, 1) > 0) { usleep(500); if (fork() > 0) _exit(0); } _exit(0); }
    }
    say("rising\n");
    return store;
}
