/** The version of every binary, image tag and the chart; a test holds it equal to package.json. */
export const version = '0.1.0';
