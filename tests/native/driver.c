/* Compares the native engine with plain loops, on every instruction set that this machine has.
 *
 * usage: driver VECTORS, a file in the format of vectors.c
 *
 * Prints a line for each instruction set; ends with 1 at the first difference. */
#include "driver.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

uint32_t draw(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

void *take(int64_t bytes, int64_t skew) {
    void *block;
    if (posix_memalign(&block, 64, (size_t)(skew + bytes))) fail("no memory");
    uint8_t *memory = (uint8_t *)block + skew;
    for (int64_t i = 0; i < bytes; i += 4) {
        const uint32_t drawn = draw();
        memcpy(memory + i, &drawn, (size_t)(bytes - i < 4 ? bytes - i : 4));
    }
    return memory;
}

void give_back(void *memory, int64_t skew) { free((uint8_t *)memory - skew); }

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _Exit(1); /* what is still allocated is no leak */
}

int main(int count, char **arguments) {
    if (count != 2) fail("usage: driver VECTORS");
    if (ah_kernels_of(-1) || ah_kernels_of(ah_isa_count()) || ah_isa_name(ah_isa_count()))
        fail("an instruction set that is not there was found");
    for (int32_t isa = 0; isa < ah_isa_count(); isa++) {
        const ah_kernels *kernels = ah_kernels_of(isa);
        if (kernels == NULL) {
            printf("%s: not on this machine\n", ah_isa_name(isa));
            continue;
        }
        FILE *file = fopen(arguments[1], "rb");
        if (file == NULL) fail("cannot open %s", arguments[1]);
        const int64_t calls = check_kernels(kernels);
        const int64_t runs = check_vectors(file, isa) + check_real(isa);
        fclose(file);
        printf("%s: %lld kernel calls, %lld engine runs\n", kernels->name, (long long)calls,
               (long long)runs);
    }
    return 0;
}
