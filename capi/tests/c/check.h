/* What the C tests share: checks that are counted, random numbers, files, and what pith promises of
 * every failure. */
#ifndef CHECK_H
#define CHECK_H

#include <pith.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long n_checks, n_failed;

static inline void check_at(int holds, int line, const char *what) {
    n_checks++;
    if (!holds && n_failed++ < 20) fprintf(stderr, "line %d: not true: %s\n", line, what);
}
#define CHECK(condition) check_at((condition) != 0, __LINE__, #condition)

/* The error that calls in WORKS, FAILS and BEARABLE are given. */
static pith_error error;

static inline void poison_error(void) {
    memset(&error, 0x5a, sizeof error);
    error.struct_size = sizeof error;
}

/* A failure has its status in the error too, and words. */
static inline int is_told(pith_status status, const pith_error *of) {
    return of->status == status && memchr(of->message, 0, sizeof of->message) != NULL &&
           of->message[0] != 0;
}

static inline void works_at(pith_status status, int line, const char *what) {
    check_at(status == PITH_OK, line, what);
    if (status != PITH_OK && n_failed < 20) {
        fprintf(stderr, "    %s: %s\n", pith_status_text(status), error.message);
    }
}
#define WORKS(call) (poison_error(), works_at((call), __LINE__, #call))

static inline void fails_at(pith_status wanted, pith_status status, int line, const char *what) {
    check_at(status == wanted && is_told(status, &error), line, what);
    if (status != wanted && n_failed < 20) {
        fprintf(stderr, "    got: %s, wanted: %s\n", pith_status_text(status), pith_status_text(wanted));
    }
}
#define FAILS(wanted, call) (poison_error(), fails_at((wanted), (call), __LINE__, #call))

/* Whatever comes of it: success, or an error that says what was wrong and is no bug of pith's. */
static inline pith_status bearable_at(pith_status status, int line, const char *what) {
    check_at(status == PITH_OK ||
                 (status > PITH_OK && status < PITH_INTERNAL && is_told(status, &error)),
             line, what);
    return status;
}
#define BEARABLE(call) (poison_error(), bearable_at((call), __LINE__, #call))

/* An error of any kind. */
#define REFUSED(call) CHECK(BEARABLE(call) != PITH_OK)

static inline void fatal(const char *what) {
    fprintf(stderr, "%s: %s\n", what, error.message);
    exit(1);
}

/* The exit code; says how much was checked. */
static inline int report(const char *name) {
    if (n_failed > 0) {
        fprintf(stderr, "%s: %lu of %lu checks FAILED\n", name, n_failed, n_checks);
        return 1;
    }
    printf("%s: %lu checks\n", name, n_checks);
    return 0;
}

/* xorshift64 (Marsaglia): the same numbers on every machine. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static inline size_t below(uint64_t *state, size_t n) {
    return (size_t)(next_random(state) % n);
}

/* A whole file, in a block of exactly its size. */
static inline unsigned char *read_file(const char *path, size_t *n_bytes) {
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    long size = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size > 0) bytes = malloc((size_t)size);
    if (bytes == NULL || fseek(file, 0, SEEK_SET) != 0 ||
        fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        fatal(path);
    }
    fclose(file);
    *n_bytes = (size_t)size;
    return bytes;
}

#endif
