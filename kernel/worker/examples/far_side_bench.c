/* What far_side_bench.rs has the worker run. The variable store is the state's first byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void *FORKLAB_HOST;
const unsigned FORKLAB_ORIGINS[] = {0, 0, 0, 0, 0};
const size_t FORKLAB_ORIGINS_LEN = 0;

#define CELL(name) void *name(void *store)

static size_t size; /* of the state, in bytes */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static void say(double microseconds) {
    char text[64];
    int len = snprintf(text, sizeof text, "%.3f\n", microseconds);
    if (write(1, text, len) < 0) abort();
}

CELL(nothing) { return store; }

static void *state_of(void *store, size_t megabytes) {
    free(store);
    size = megabytes << 20;
    char *state = malloc(size ? size : 1);
    memset(state, 1, size);
    return state;
}
CELL(state_0) { return state_of(store, 0); }
CELL(state_10) { return state_of(store, 10); }
CELL(state_100) { return state_of(store, 100); }
CELL(state_500) { return state_of(store, 500); }

/* The first write to one page of the state. */
CELL(touch_one) {
    volatile char *state = store;
    double begun = now();
    state[size / 2]++;
    say(now() - begun);
    return store;
}
/* And to every page. */
CELL(touch_all) {
    volatile char *state = store;
    double begun = now();
    for (size_t at = 0; at < size; at += 4096) state[at]++;
    say(now() - begun);
    return store;
}

/* One of 2,000 × fork and wait; of 100 where each takes milliseconds. */
CELL(forks) {
    int count = size > 50 << 20 ? 100 : 2000;
    double begun = now();
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) abort();
        if (!child) _exit(0);
        waitpid(child, 0, 0);
    }
    say((now() - begun) / count);
    return store;
}
