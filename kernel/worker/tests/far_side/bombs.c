/* Victims that want too much, and such as do not go when they are asked to.
 * Each has a bound of its own, over all its processes, so that a limit that fails costs a test and not
 * the machine: a bomb has so many births in all, a hog so many bytes, and both end with time. */
#define _GNU_SOURCE
#include <sched.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "cells.h"

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t)) ;
}
static void wait_for_ever(void) { for (;;) pause(); }
/* A process that only waits; in its own session, so that nothing but its pid leads to it. */
static pid_t sleeper(void) {
    pid_t child = fork();
    if (!child) { setsid(); wait_for_ever(); }
    while (child > 0 && getsid(child) != child) sched_yield();
    return child;
}

/* Fork bombs. The births that are left are counted in memory that all of them share; a fork that fails
 * costs none, so a bomb at its limit goes on trying. Nobody sets the alarm anew: whoever is born
 * asks for what is left of the bomb's own time. */
static int *births;
static time_t end;
static void light(void) {
    births = mmap(0, sizeof *births, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (births == MAP_FAILED) abort();
    *births = 700;
    end = time(0) + 12;
}
static pid_t bear(void) {
    if (time(0) > end) _exit(0);
    if (__sync_sub_and_fetch(births, 1) < 0) { __sync_add_and_fetch(births, 1); nap(1); return -1; }
    pid_t child = fork();
    if (child < 0) __sync_add_and_fetch(births, 1);
    return child;
}
static void explode(void) { for (;;) bear(); }
CELL(bomb) { light(); say("lit\n"); explode(); return store; }
CELL(bomb_of_children) { light(); if (!fork()) explode(); while (wait(0) > 0) ; wait_for_ever(); return store; }
/* Each has a grandchild that is an orphan in a session of its own, and another, and another. */
CELL(bomb_of_orphans) {
    light();
    say("lit\n");
    for (;;) {
        pid_t child = bear();
        if (!child) { setsid(); if (fork()) _exit(0); }
        if (child > 0) waitpid(child, 0, 0);
    }
    return store;
}
CELL(bomb_later) { light(); if (!fork()) { setsid(); nap(200); explode(); } return store; }

/* Not more than 2 GB in all, and no longer than 15 seconds. */
static void eat(long megabytes) {
    alarm(15);
    for (long i = 0; i < megabytes; i++) memset(malloc(1 << 20), 1, 1 << 20);
}
CELL(hog) { eat(2048); wait_for_ever(); return store; }
CELL(hog_child) { if (!fork()) { eat(2048); wait_for_ever(); } wait(0); wait_for_ever(); return store; }
CELL(hogs) {
    for (int i = 0; i < 64; i++) if (!fork()) { eat(32); wait_for_ever(); }
    wait_for_ever();
    return store;
}
CELL(hog_later) { if (!fork()) { setsid(); nap(300); eat(2048); wait_for_ever(); } return store; }
CELL(modest) { eat(64); alarm(0); return store; }

static void burn(long ms) {
    struct timespec t;
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); while (t.tv_sec * 1000 + t.tv_nsec / 1000000 < ms);
}
CELL(burns) { burn(15000); return store; }
CELL(burning_children) {
    for (int i = 0; i < 3; i++) if (!fork()) { burn(5000); _exit(0); }
    while (wait(0) > 0) ;
    return store;
}
CELL(short_lives) {
    for (int i = 0; i < 500; i++) { if (!fork()) { burn(20); _exit(0); } wait(0); }
    return store;
}
CELL(short_orphans) {
    for (int i = 0; i < 500; i++) { if (!fork()) { if (!fork()) burn(20); _exit(0); } wait(0); nap(10); }
    return store;
}
CELL(burns_a_little) { burn(100); return store; }
CELL(naps) { nap(2); return store; }

/* How many processes there may be: so many, and the next fork fails with EAGAIN. */
CELL(counts_forks) {
    pid_t children[1000];
    int n = 0;
    for (; n < 1000; n++) if ((children[n] = sleeper()) < 0) break;
    int error = errno;
    number(n); number(error == EAGAIN);
    while (n--) { kill(children[n], SIGKILL); waitpid(children[n], 0, 0); }
    return store;
}
static void hold(int n) {
    pid_t children[100];
    for (int i = 0; i < n; i++) children[i] = sleeper();
    nap(300);
    while (n--) { kill(children[n], SIGKILL); waitpid(children[n], 0, 0); }
}
CELL(holds_twenty) { hold(20); return store; }
CELL(holds_twenty_one) { hold(21); return store; }
CELL(leaves_five) { for (int i = 0; i < 5; i++) number(sleeper()); return store; }
CELL(leaves_twenty) { for (int i = 0; i < 20; i++) number(sleeper()); return store; }
static void *wait_in_thread(void *unused) { wait_for_ever(); return unused; }
CELL(leaves_threads) {
    pthread_t thread;
    for (int i = 0; i < 5; i++) if (pthread_create(&thread, 0, wait_in_thread, 0)) abort();
    return store;
}

CELL(counts_files) {
    int n = 0, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) n = fd;
    number(n + 1); number(errno == EMFILE);
    for (; n > 2; n--) close(n);
    return store;
}
CELL(ten_thousand_pipes) {
    int ends[2], n = 0;
    while (n < 10000 && !pipe(ends)) n++;
    number(n);
    return store;
}

/* A child that cleans up for a fifth of a second when it gets SIGINT. */
static void clean_up(int unused) { (void)unused; nap(200); say("cleaned up\n"); _exit(0); }
CELL(child_cleans_up) {
    if (!fork()) { signal(SIGINT, clean_up); say("ready\n"); wait_for_ever(); }
    wait(0);
    wait_for_ever();
    return store;
}
static volatile sig_atomic_t told;
static void tell(int unused) { (void)unused; told = 1; }
/* A lesson of its own about SIGINT: counts on, and returns. */
CELL(handles_interrupt) {
    told = 0;
    void (*before)(int) = signal(SIGINT, tell);
    say("ready\n");
    while (!told) nap(1);
    signal(SIGINT, before);
    ++*(int *)store;
    return store;
}
static void deaf(void) { signal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN); signal(SIGHUP, SIG_IGN); }
/* Everybody whom SIGINT does not end; the pids go to stdout. */
static void company(void) {
    pid_t child;
    if (!(child = fork())) { deaf(); wait_for_ever(); }
    number(child);
    if (!(child = fork())) { deaf(); for (;;) ; }
    number(child);
    if (!(child = fork())) { deaf(); setsid(); raise(SIGSTOP); wait_for_ever(); }
    number(child);
    if (!fork()) { deaf(); setsid(); if (!(child = fork())) wait_for_ever(); number(child); _exit(0); }
    wait(0);
}
CELL(deaf_company) { company(); deaf(); say("0\n"); for (;;) ; return store; }
CELL(leaves_deaf_company) { company(); return store; }

/* One of each kind, for the list: child, grandchild, zombie, stopped, orphan; the pids in this order. */
CELL(family) {
    int ends[2]; char byte;
    if (pipe(ends)) abort();
    pid_t other;
    if (!fork()) {
        number(getpid());
        number(sleeper());
        if (write(ends[1], "", 1) < 0) abort();
        wait_for_ever();
    }
    if (read(ends[0], &byte, 1) < 0) abort();
    if (!(other = fork())) _exit(0);
    number(other);
    if (!(other = fork())) { raise(SIGSTOP); wait_for_ever(); }
    number(other);
    pid_t middle = fork();
    if (!middle) { number(sleeper()); _exit(0); }
    waitpid(middle, 0, 0);
    close(ends[0]); close(ends[1]);
    return store;
}
