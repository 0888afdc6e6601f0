import { jest } from '@jest/globals';

/** Tests against a real API server wait for what others do, on machines of any speed; a test may still ask for more. */
jest.setTimeout(60_000);
