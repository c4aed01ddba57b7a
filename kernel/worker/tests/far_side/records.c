/* Victims whose forks, ends and reaps are known: for the record. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "cells.h"

extern char **environ;

static long long clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void forks_and_waits(int times) {
    for (int i = 0; i < times; i++) {
        pid_t child = fork();
        if (!child) _exit(0);
        if (waitpid(child, 0, 0) != child) abort();
    }
}
/* Child, its status; before the fork, after the reaping. */
CELL(one_life) {
    number(clock_now());
    pid_t child = fork();
    if (!child) _exit(7);
    int status; waitpid(child, &status, 0);
    number(clock_now());
    number(child); number(status);
    return store;
}
CELL(a_zombie) {
    pid_t child = fork();
    if (!child) _exit(0);
    siginfo_t info;
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    number(clock_now());
    usleep(100000);
    number(clock_now());
    waitpid(child, 0, 0);
    number(clock_now());
    number(child);
    return store;
}
/* The middle process leaves while its child lives; the orphan leaves by and by. */
CELL(an_orphan) {
    int line[2]; if (pipe(line)) abort();
    pid_t middle = fork();
    if (!middle) {
        pid_t orphan = fork();
        if (!orphan) { char b; close(line[1]); if (read(line[0], &b, 1) < 0) abort(); while (getppid() == 0) ; _exit(3); }
        number(orphan);
        _exit(0);
    }
    waitpid(middle, 0, 0);
    number(middle);
    close(line[0]); close(line[1]);
    return store;
}
CELL(execs_true) {
    pid_t child = fork();
    if (!child) { execlp("echo", "echo", "one", "two", (char *)0); abort(); }
    waitpid(child, 0, 0);
    number(child);
    return store;
}
CELL(spawns_a_shell) {
    pid_t child;
    char *arguments[] = {"sh", "-c", "true | cat | cat; exit 5", 0};
    if (posix_spawnp(&child, "sh", 0, 0, arguments, environ)) abort();
    int status; waitpid(child, &status, 0);
    number(child); number(WEXITSTATUS(status));
    return store;
}
static void nothing(int signal) { (void)signal; }
static void hear(int line) { char b; if (read(line, &b, 1) != 1) abort(); }
/* A line of /proc/pid/stat, and who traces a process. */
static const char *stat_of(pid_t pid, char text[512]) {
    char name[64]; snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *file = fopen(name, "r"); if (!file || !fgets(text, 512, file)) abort();
    fclose(file);
    return text;
}
static int tracer_of(pid_t pid) {
    char name[64], text[512]; snprintf(name, sizeof name, "/proc/%d/status", pid);
    FILE *file = fopen(name, "r"); if (!file) abort();
    int tracer = -1;
    while (tracer < 0 && fgets(text, sizeof text, file)) sscanf(text, "TracerPid: %d", &tracer);
    fclose(file);
    return tracer;
}
/* A child that handles SIGUSR1, is stopped, goes on, and is killed. Each signal is sent when the one before
   has had its effect: of two that wait, the child takes the one that the system likes, and a killed child
   says nothing. */
CELL(signals) {
    int line[2]; if (pipe(line)) abort();
    pid_t child = fork();
    if (!child) {
        close(line[0]);
        struct sigaction action = {.sa_handler = nothing};
        sigaction(SIGUSR1, &action, 0);
        sigset_t set, none; sigemptyset(&none); sigemptyset(&set); sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, 0);
        kill(getppid(), SIGCONT);
        for (;;) { if (write(line[1], "", 1) != 1) abort(); sigsuspend(&none); say("heard\n"); }
    }
    close(line[1]);
    number(child);
    hear(line[0]);
    kill(child, SIGUSR1);
    hear(line[0]);
    kill(child, SIGSTOP);
    int status;
    if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP) abort();
    char text[512]; stat_of(child, text);
    say(strstr(text, ") T ") ? "stopped\n" : text);
    if (waitpid(child, &status, WNOHANG | WUNTRACED | WCONTINUED) != 0) abort();
    kill(child, SIGCONT);
    if (waitpid(child, &status, WCONTINUED) != child || !WIFCONTINUED(status)) abort();
    /* What it does in the first moments after it goes on is not recorded: it is to be followed again as we are. */
    for (int i = 0; tracer_of(child) != tracer_of(getpid()); i++) { if (i == 10000) abort(); usleep(1000); }
    kill(child, SIGUSR1);
    hear(line[0]);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    close(line[0]);
    say(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? "killed\n" : "not killed\n");
    return store;
}
/* Six times: their pids. Some are killed at once, some when the supervisor has looked at them. */
CELL(stopped_and_killed) {
    for (int i = 0; i < 6; i++) {
        pid_t child = fork();
        if (!child) for (;;) pause();
        kill(child, SIGSTOP);
        waitpid(child, 0, WUNTRACED);
        char text[512]; stat_of(child, text);
        if (!strstr(text, ") T ")) say(text);
        if (i % 2) usleep(20000);
        kill(child, SIGKILL);
        waitpid(child, 0, 0);
        number(child);
    }
    return store;
}
static void *forks_in_a_thread(void *unused) { forks_and_waits(2); return unused; }
CELL(threads_fork) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(threads + i, 0, forks_in_a_thread, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    pid_t child = fork();
    if (!child) { pthread_create(threads, 0, forks_in_a_thread, 0); pthread_join(*threads, 0); _exit(4); }
    waitpid(child, 0, 0);
    number(child);
    return store;
}
static void *execs_in_a_thread(void *unused) { usleep(2000); execlp("sh", "sh", "-c", "exit 6", (char *)0); return unused; }
CELL(a_thread_execs) {
    pid_t child = fork();
    if (!child) { pthread_t thread; pthread_create(&thread, 0, execs_in_a_thread, 0); for (;;) pause(); }
    int status; waitpid(child, &status, 0);
    number(child); number(WEXITSTATUS(status));
    return store;
}
CELL(lives_2000) {
    long long best = 1LL << 60;
    for (int i = 0; i < 5; i++) {
        long long before = clock_now();
        forks_and_waits(400);
        if (clock_now() - before < best) best = clock_now() - before;
    }
    number(best / 400);
    return store;
}
CELL(lives_4000) { forks_and_waits(4000); return store; }
static volatile sig_atomic_t hits;
static void hit(int signal) { (void)signal; hits++; }
CELL(signals_itself) {
    struct sigaction action = {.sa_handler = hit}, old;
    sigaction(SIGUSR2, &action, &old);
    long long before = clock_now();
    for (int i = 0; i < 2000; i++) kill(getpid(), SIGUSR2);
    number((clock_now() - before) / 2000);
    sigaction(SIGUSR2, &old, 0);
    return store;
}
static void *no_thread(void *unused) { return unused; }
CELL(makes_threads) {
    pthread_t thread;
    long long before = clock_now();
    for (int i = 0; i < 2000; i++) { pthread_create(&thread, 0, no_thread, 0); pthread_join(thread, 0); }
    number((clock_now() - before) / 2000);
    return store;
}
CELL(system_calls) {
    long long before = clock_now();
    for (int i = 0; i < 200000; i++) getppid();
    number((clock_now() - before) / 200);
    return store;
}
