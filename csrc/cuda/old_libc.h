/* Running on an older C library than the one we are built with; included before everything else.
 *
 * The shim is loaded into images of any age. glibc 2.34 moved these functions out of libpthread
 * and gave them a new version, which alone would keep the shim out of every older image: ask for
 * the version that both have. (Before 2.34 they are in libpthread, which the real driver needs and
 * so brings along.) tests/test_shim_file.py names what else would need it.
 */
#ifdef __x86_64__
#define ALIQUOT_OLDEST(name) __asm__(".symver " #name ", " #name "@GLIBC_2.2.5")
#else
#define ALIQUOT_OLDEST(name) __asm__(".symver " #name ", " #name "@GLIBC_2.17")
#endif

ALIQUOT_OLDEST(pthread_once);
ALIQUOT_OLDEST(pthread_rwlock_init);
ALIQUOT_OLDEST(pthread_rwlock_rdlock);
ALIQUOT_OLDEST(pthread_rwlock_unlock);
ALIQUOT_OLDEST(pthread_rwlock_wrlock);
