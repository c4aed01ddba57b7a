/* Victims for runs that are undone. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cells.h"

/* Five that write a line each, in the order in which they come to it. */
CELL(five_workers) {
    for (int i = 0; i < 5; i++) {
        if (!fork()) { number(getpid()); _exit(i); }
    }
    while (wait(0) > 0) ;
    return store;
}
/* What the next run must find as this one has: the counter, the directory, a handler, the mask of files. */
CELL(changes_itself) {
    static int calls;
    char here[4096];
    number(getpid()); number(++*(int *)store); number(++calls);
    number(getcwd(here, sizeof here) && !strcmp(here, "/")); number(umask(0123) == 0123);
    number(signal(SIGUSR1, SIG_IGN) == SIG_IGN); number(getenv("UNDONE") != 0);
    if (chdir("/")) abort();
    setenv("UNDONE", "not", 1);
    return store;
}
/* A child that is there when the cell returns, and whose name is the checkpoint's. */
CELL(leaves_a_pretender) {
    int line[2]; char byte;
    if (pipe(line)) abort();
    if (!fork()) {
        pid_t child = fork();
        if (!child) { setsid(); prctl(PR_SET_NAME, "forklab copy"); if (write(line[1], "", 1) < 0) abort(); for (;;) pause(); }
        number(child);
        _exit(0);
    }
    wait(0);
    if (read(line[0], &byte, 1) < 0) abort();
    return store;
}
/* It ends the process that has its own name and its own parent: the checkpoint. */
CELL(kills_its_checkpoint) {
    char path[64], list[4096], name[32], *next = list;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", getppid(), getppid());
    FILE *file = fopen(path, "r");
    if (!file || !fgets(list, sizeof list, file)) abort();
    fclose(file);
    for (long pid; (pid = strtol(next, &next, 10)) > 0; ) {
        snprintf(path, sizeof path, "/proc/%ld/comm", pid);
        if ((file = fopen(path, "r")) && fgets(name, sizeof name, file) && !strcmp(name, "forklab copy\n")) kill(pid, SIGKILL);
        if (file) fclose(file);
    }
    ++*(int *)store;
    return store;
}
CELL(counts_processors) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) abort();
    number(CPU_COUNT(&set));
    if (!fork()) { if (sched_getaffinity(0, sizeof set, &set)) abort(); number(CPU_COUNT(&set)); _exit(0); }
    wait(0);
    return store;
}
