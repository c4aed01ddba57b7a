/* Victims that find the way to the supervisor and say what no worker says; and one that leaves its
 * process unfit for another task. */
#include "cells.h"
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static int knock(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", getenv("FORKLAB_TEST_SOCKET"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) abort();
    return fd;
}
/* A frame's length, and so many of its bytes as there are. */
static int frame(unsigned length, const char *text) {
    int fd = knock();
    if (write(fd, &length, 4) < 0 || write(fd, text, strlen(text)) < 0) abort();
    return fd;
}
static void forever(void) { for (;;) pause(); }

CELL(says_nothing) { close(knock()); return store; }
CELL(says_half_a_length) { if (write(knock(), "\5", 1) < 0) abort(); return store; }
CELL(says_half_a_frame) { frame(100, "{\"Ready\":"); return store; }
CELL(says_no_json) { frame(8, "nonsense"); forever(); return store; }
CELL(says_no_utf8) { frame(4, "\xff\xfe\xc3\xa9"); forever(); return store; }
CELL(says_nothing_long) { frame(0, ""); forever(); return store; }
CELL(says_that_it_will_be_long) { frame(0xffffffff, "{"); forever(); return store; }
CELL(nests) {
    unsigned length = 1 << 20;
    char *text = malloc(length + 1);
    memset(text, '[', length);
    text[length] = 0;
    frame(length, text);
    forever();
    return store;
}
CELL(forges) {
    const char *report = "{\"Ready\":{\"ended\":[{\"Returned\":{\"panic\":null,\"error\":null,\"displays\":[],"
                         "\"lost_variables\":[],\"shell\":null}},12345],\"checkpoint\":null}}";
    frame(strlen(report), report);
    forever();
    return store;
}
CELL(sends_descriptors) {
    int fd = knock();
    union { struct cmsghdr header; char space[CMSG_SPACE(8 * sizeof(int))]; } control = {.header = {
        .cmsg_len = CMSG_LEN(8 * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    for (int i = 0; i < 8; i++) ((int *)CMSG_DATA(&control.header))[i] = 1;
    for (int i = 0; i < 1000; i++) {
        struct iovec byte = {.iov_base = i ? " " : "\xff", .iov_len = 1};
        struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0) break;
    }
    forever();
    return store;
}
CELL(knocks_forever) {
    say("ready\n");
    for (;;) close(knock());
    return store;
}
CELL(drips) {
    int fd = frame(1 << 20, "[");
    say("ready\n");
    while (write(fd, " ", 1) == 1) usleep(2000);
    forever();
    return store;
}
CELL(leaves_no_memory) {
    struct rlimit none = {1, 1};
    if (setrlimit(RLIMIT_DATA, &none)) abort();
    return store;
}
CELL(leaves_no_descriptors) {
    struct rlimit none = {3, 3};
    if (setrlimit(RLIMIT_NOFILE, &none)) abort();
    return store;
}
