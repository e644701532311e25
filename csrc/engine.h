/* What the drivers share: how lanes lie in memory, and how sums leave. */
#ifndef APPROXHUB_ENGINE_H
#define APPROXHUB_ENGINE_H

#include "approxhub_cpu.h"
#include "kernels.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* A padded source is cut into phases of the strides, so that in each of them the lanes of one tap
 * are neighbours: output position p of a tap with quotient q reads position p + q of its phase. */
typedef struct {
    int64_t taps, phases, positions, quads; /* quads: groups of four channels */
    int64_t extent[3];                      /* of one phase of one image */
    int64_t count[3];                       /* of phases in each direction */
    int64_t *phase_at[3];                   /* remainders, in order */
    int64_t *from[3], *to[3];               /* of each, positions inside the source: from .. to */
    int64_t *tap_phase, *tap_shift;         /* of each tap */
    int64_t code_pitch, plane_pitch;        /* bytes of one phase of a channel, of a quad */
    int64_t intervals, length, pitch;       /* runs of lanes that hold all outputs */
    int64_t lanes;                          /* that are computed in all of them */
} ah_layout;

/* AH_OK, or why not; ah_layout_free frees what it took. Kernels take `granule` lanes or more at a
 * time, and at most `tile`; each time costs as much as `overhead` lanes more. */
int32_t ah_layout_of(const ah_geometry *g, int64_t granule, int64_t tile, int64_t overhead,
                     ah_layout *layout);
void ah_layout_free(ah_layout *layout);

/* Writes (or adds, unless fresh) weight * acc + row_term + lane_term of lanes first .. first +
 * width to where they belong; lanes that are no output are dropped. */
typedef struct {
    const ah_kernels *kernels;
    const ah_geometry *g;
    const ah_layout *layout;
    void *out;
    int32_t wide;
    const int64_t *step;
} ah_sink;

void ah_emit(const ah_sink *sink, int64_t first, int64_t width, int64_t row, int64_t count,
             const int32_t *acc, int64_t pitch, int64_t weight, const int64_t *row_term,
             const int64_t *lane_term, int32_t fresh);

/* Lays the codes of one image in up to eight channels that follow `image` in the source; channels
 * lie `pitch` bytes apart, phases code_pitch. */
void ah_lay_block(const ah_geometry *g, const ah_layout *layout, const uint8_t *image,
                  int64_t live, uint8_t *codes, int64_t pitch);

static inline int64_t ah_smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t ah_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

enum { AH_SLACK = 256 }; /* bytes that may be read behind the last lane */

#endif
