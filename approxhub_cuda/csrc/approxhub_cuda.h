/* The C interface of the CUDA kernels. Everything else in this folder is private.
 *
 * Pointers are to memory of the device, except the structs themselves. Functions only put work on
 * `stream` of `device`: they allocate nothing, wait for nothing, and may be captured into a graph.
 * Each returns AH_OK, or says what went wrong; ah_cuda_error() has the words for it.
 */
#ifndef APPROXHUB_CUDA_H
#define APPROXHUB_CUDA_H

#include <stdint.h>

#define AH_CUDA_ABI 2

#ifdef __cplusplus
extern "C" {
#endif

enum ah_cuda_status {
    AH_OK = 0,
    AH_ARGUMENT = 1,    /* an argument that no caller should pass */
    AH_TOO_LARGE = 2,   /* more tiles than a grid has room for */
    AH_NO_MEMORY = 3,   /* a kernel needs more shared memory than the card has */
    AH_CUDA = 1 << 16,  /* and above: a cudaError_t is added */
};

/* A card, as far as kernels and their planner care. */
typedef struct {
    int32_t major, minor;     /* compute capability */
    int32_t processors;       /* streaming multiprocessors */
    int32_t clock_khz;
    int32_t shared_bytes;     /* shared memory that one block may opt in to */
    int32_t driver, runtime;  /* versions of CUDA: 1000 * major + 10 * minor */
    char name[256];
} ah_card;

/* One operand of a sum of products: codes, addressed by group, row and k.
 *
 * A matrix: data[group * group_step + row * row_step + k * k_step].
 * An image (image != 0): a row is an output position of all images, in order; k runs over taps, and
 * within a tap over channels. Outside of the image every code is `pad`, or, where there is a
 * `pad_from`, its low bits. Steps are in codes.
 */
typedef struct {
    const void *data;
    int64_t rows;
    int64_t group_step;
    int64_t row_step, k_step;      /* of a matrix */
    int64_t step[5];               /* of an image: image, channel, three dimensions */
    int32_t image;
    int32_t channels;              /* of one group */
    int32_t size[3], out[3], kernel[3], stride[3], dilation[3], before[3];
    int32_t pad;                   /* bit pattern */
    const int32_t *pad_from;       /* or NULL: its value, which the host does not know */
} ah_operand;

/* Where sums go: out[group * group_step + row / block * block_step + row % block * row_step +
 * column * column_step], int64 where `wide`, else int32 (then every sum is known to fit). `count`
 * sums in all, densely: the launcher may set all of them to zero first. */
typedef struct {
    void *data;
    int64_t count;
    int64_t group_step, block, block_step, row_step, column_step;
    int32_t wide;
} ah_sums;

/* Where the table is while sums are looked up. */
enum ah_lookup_way {
    AH_STAGED = 0,  /* rows of the table in shared memory, eight columns side by side */
    AH_CACHED = 1,  /* the whole table in memory, through the caches */
    AH_SHARED = 2,  /* the whole table in the shared memory of a block */
    AH_PLAIN = 3,   /* one sum a thread, the table through the caches: what to compare with */
};

/* sums[row, column] = sum_k table[b[column, k]][a[row, k]], with `a` of any kind and `b` a matrix.
 *
 * The table has 2^a_bits entries for each of the 2^b_bits codes of `b`. 16-bit entries are unsigned
 * and less `bias`; 32-bit entries are signed. Codes are bytes, or 16-bit words where `code_bytes`
 * is 2; bits above an operand's are ignored. STAGED needs bytes, 8 bits for `a` and 16-bit entries;
 * SHARED and PLAIN need bytes and 16-bit entries. */
typedef struct {
    ah_operand a, b;
    ah_sums sums;
    int64_t k, columns, groups;
    const void *table;
    int64_t bias;
    int32_t a_bits, b_bits, entry_bytes, code_bytes, way;
} ah_lookup;

/* Four int8 or uint8 products at most that are summed with one weight. */
typedef struct {
    int64_t weight;
    int32_t planes; /* 1 to 4 */
    int32_t signs;  /* two bits for each: 1 where the bytes of `a` are signed, 2 those of `b` */
} ah_pass;

/* sums[row, column] = sum over passes of weight * sum_k sum over planes of
 * left[pass][a[row, k]][plane] * right[pass][b[column, k]][plane].
 *
 * Codes are bytes. A recoding has a word for each of 256 codes, with a byte for each plane, the
 * first one lowest. `pass` is memory of the host; there are AH_MOST_PASSES at most. */
#define AH_MOST_PASSES 64
typedef struct {
    ah_operand a, b;
    ah_sums sums;
    int64_t k, columns, groups;
    const void *left, *right;
    int32_t passes;
    ah_pass pass[AH_MOST_PASSES];
} ah_product;

/* codes[i] = clamp(round_half_even(x[i] / scale) + zero, least, most), for dense numbers in the order
 * outer, channel, inner; of `code_bytes` 1, 2 or 4. Where there is a `real`, also that of
 * (code - zero) * scale, and into `inside` whether a number was not clamped. `finite` is a byte that
 * is set to 1, then to 0 if a number is NaN or infinite, whose code is `least` or `most`. */
typedef struct {
    const float *x;
    int64_t outer, channels, inner;
    const float *scale;   /* of each channel */
    const int32_t *zero;  /* likewise */
    void *codes;
    float *real;          /* or NULL */
    uint8_t *inside;      /* with `real` */
    uint8_t *finite;
    int32_t least, most, code_bytes;
} ah_quantize;

/* out[i] = float(acc[i] + term[c] - zero[c] * sums[g]) * scale[c] + bias[c], for dense numbers in the
 * order outer, channel c, inner; `sums` has a group g in place of channels / groups channels. */
typedef struct {
    const void *acc; /* int64 where `wide`, else int32 */
    int64_t outer, channels, inner, groups;
    const int64_t *term, *zero, *sums; /* the last one or NULL */
    const float *scale, *bias;         /* the last one or NULL */
    float *out;
    int32_t wide;
} ah_dequantize;

/* Recoding of real numbers on a grid, for gradients that are tables. With code = round(x / scale) +
 * zero and its bits p = code & mask: out[t][i] = scale[c] * table[t][p] for each term t, and with
 * `whole` x[i] is added to the first. */
#define AH_MOST_TERMS 4
typedef struct {
    const float *x;
    int64_t outer, channels, inner;
    const float *scale;
    const int32_t *zero;
    const float *table; /* terms of mask + 1 entries each */
    float *out;         /* terms of outer * channels * inner numbers each */
    int32_t mask, terms, whole; /* a mask of 24 bits at most */
} ah_recode;

/* sum[i] += sum over terms t, in order, of table[t][p] * products[t][i], with p as in ah_recode. */
typedef struct {
    const float *x;
    int64_t outer, channels, inner;
    const float *scale;
    const int32_t *zero;
    const float *table;
    const float *products[AH_MOST_TERMS];
    float *sum;
    int32_t mask, terms;
} ah_combine;

int32_t ah_cuda_abi(void);
/* 1 where kernels run on the host (see emulation/), so that memory of the device is the host's. */
int32_t ah_cuda_emulated(void);
/* Words for a status; valid until the thread asks again. */
const char *ah_cuda_error(int32_t status);
int32_t ah_cuda_devices(int32_t *count);
/* Describes a card, and loads all kernels there, so that a later launch only launches. */
int32_t ah_cuda_card(int32_t device, ah_card *card);
int32_t ah_cuda_lookup(int32_t device, void *stream, const ah_lookup *work);
int32_t ah_cuda_product(int32_t device, void *stream, const ah_product *work);
int32_t ah_cuda_quantize(int32_t device, void *stream, const ah_quantize *work);
int32_t ah_cuda_dequantize(int32_t device, void *stream, const ah_dequantize *work);
int32_t ah_cuda_recode(int32_t device, void *stream, const ah_recode *work);
int32_t ah_cuda_combine(int32_t device, void *stream, const ah_combine *work);

#ifdef __cplusplus
}
#endif
#endif
