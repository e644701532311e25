/* What the checks of the native engine share. */
#ifndef APPROXHUB_DRIVER_H
#define APPROXHUB_DRIVER_H

#include "approxhub_cpu.h"
#include "kernels.h"

#include <stdio.h>

/* Random bits, the same ones in every run. */
uint32_t draw(void);

/* Random bytes in memory that ends where its allocation ends, so that a sanitizer sees every
 * access behind it; `skew` bytes behind a multiple of 64. To be given back with the same skew. */
void *take(int64_t bytes, int64_t skew);
void give_back(void *memory, int64_t skew);

/* Says what differs, and ends the program. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

/* Number of calls that agreed with a plain loop. */
int64_t check_kernels(const ah_kernels *kernels);

/* Number of runs that agreed with what the file says. */
int64_t check_vectors(FILE *file, int32_t isa);

/* Number of conversions to codes, and of sums, that agreed with one operation at a time. */
int64_t check_real(int32_t isa);

#endif
